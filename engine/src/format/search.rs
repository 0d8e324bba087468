//! Search in sorted entries from a guess on: where keys are spread evenly, most searches touch one place.
//!
//! Owns the way from the guess to the answer. Who searches makes the guess.

/// How many of `length` entries come before what is looked for, if `comes_before` is true of these and of no others.
/// Fewest entries are looked at when the answer is near `guess`.
#[inline]
pub(super) fn partition_near(length: usize, guess: usize, comes_before: impl Fn(usize) -> bool) -> usize {
    if length == 0 {
        return 0;
    }
    let guess = guess.min(length - 1);
    let mut step = 1;
    let (mut low, mut high);
    if comes_before(guess) {
        low = guess + 1;
        while low + step <= length && comes_before(low + step - 1) {
            low += step;
            step *= 2;
        }
        high = (low + step - 1).min(length);
    } else {
        high = guess;
        while high >= step && !comes_before(high - step) {
            high -= step;
            step *= 2;
        }
        low = (high + 1).saturating_sub(step);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if comes_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guess_leads_to_the_answer() {
        for length in 0..20 {
            for answer in 0..=length {
                for guess in 0..25 {
                    let found = partition_near(length, guess, |index| {
                        assert!(index < length);
                        index < answer
                    });
                    assert_eq!(found, answer, "{length} entries, guess {guess}");
                }
            }
        }
    }

    #[test]
    fn a_good_guess_looks_at_two_entries() {
        let looks = std::cell::Cell::new(0);
        partition_near(1000, 500, |index| {
            looks.set(looks.get() + 1);
            index < 500
        });
        assert_eq!(looks.get(), 2);
    }
}
