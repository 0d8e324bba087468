//! Finds a short list of operations that still fails.
//!
//! Owns the search: takes out halves, then quarters, down to single operations, as long as that helps.

/// The shortest failing part of `items` that is found within `tries` tries.
pub fn shrink<T: Clone>(items: &[T], mut tries: u32, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut best = items.to_vec();
    let mut piece = best.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let before = best.len();
        while at < best.len() && tries > 0 {
            tries -= 1;
            let end = (at + piece).min(best.len());
            let candidate: Vec<T> = best[..at].iter().chain(&best[end..]).cloned().collect();
            if fails(&candidate) {
                best = candidate;
            } else {
                at = end;
            }
        }
        if tries == 0 || piece == 1 && best.len() == before {
            return best;
        }
        piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_that_matter_are_found() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(shrink(&items, 1000, |part| part.contains(&17) && part.contains(&80)), [17, 80]);
        assert_eq!(shrink(&items, 1000, |_| true), Vec::<u32>::new());
    }
}
