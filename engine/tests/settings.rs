//! What a pool does about space is kept with the pool.

#[allow(dead_code)]
mod common;

use common::{disks, empty_pool, open_options};
use vellum_engine::Pool;
use vellum_engine::repair::{RepairOptions, repair};
use vellum_engine::settings::{DiscardPolicy, NoSpace, Settings};
use vellum_engine::storage::MemoryDisk;

fn unusual() -> Settings {
    let mut settings = Settings { no_space_timeout_s: 5, ..Settings::default() };
    settings.set("no-space", "error").unwrap();
    settings.set("discard", "lazy").unwrap();
    settings.set("on-low-water", "logger 'the pool is low'").unwrap();
    settings
}

#[test]
fn settings_survive_the_death_of_the_process_a_close_and_a_repair() {
    let mut pool = empty_pool(64, 2);
    assert_eq!(pool.settings(), &Settings::default());
    pool.configure(unusual()).unwrap();
    assert_eq!((pool.settings().no_space, pool.settings().discard), (NoSpace::Error, DiscardPolicy::Lazy));
    let (data, metadata) = disks(&pool);
    let pool = Pool::open(data, metadata, &open_options()).unwrap();
    assert_eq!(pool.settings(), &unusual());
    let (mut data, mut metadata) = pool.close().unwrap();
    assert!(vellum_engine::check(&mut data, &mut metadata, &mut |_| ()).unwrap().is_clean());
    let mut target = MemoryDisk::new(0);
    let options = RepairOptions { nonce: 1, secret: 2 };
    let made = repair(&mut data, &mut metadata, &mut target, &options, &mut |_| ()).unwrap();
    made.commit(&mut data).unwrap();
    let pool = Pool::open(data, target, &open_options()).unwrap();
    assert_eq!(pool.settings(), &unusual());
}
