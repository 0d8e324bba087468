//! Bodies of inner pages of low and of high level.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vellum_engine::format::InnerPage;

fuzz_target!(|data: &[u8]| {
    for level in [0, 1, 2, u8::MAX] {
        let Ok(page) = InnerPage::decode(level, data) else { continue };
        assert_eq!(InnerPage::decode(level, &page.encode()).as_ref(), Ok(&page));
        for (index, (key, _)) in page.entries.iter().enumerate() {
            assert_eq!(page.child_index(*key), index);
        }
        page.mapped();
    }
});
