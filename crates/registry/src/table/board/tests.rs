use super::*;

#[test]
fn slots_are_found_in_chunks_that_double() {
    let firsts = [0, 512, 1_536, 3_584, 100_000, u32::MAX / 2];
    assert_eq!(firsts.map(chunk), [0, 1, 2, 3, 7, 22]);
    let board = Board::new(Clock::new());
    for index in [0, 511, 512, 1_535, 1_536, 100_000] {
        let id = board.occupy(index);
        assert_eq!(board.beat(id), Beat::Slow, "{index}");
        board.set_slow(id, false);
        assert_eq!(board.beat(id), Beat::Noted, "{index}");
        let mut block = board.block(index / BLOCK);
        assert!(block.any(|(found, seen)| found == index && !seen.is_slow()), "{index}");
    }
}

#[test]
fn a_handle_of_an_earlier_occupant_does_nothing() {
    let board = Board::new(Clock::new());
    let old = board.occupy(7);
    board.set_slow(old, false);
    let new = board.renew(7, NEVER);
    board.set_slow(new, false);
    board.advance(Duration::from_secs(1));
    assert_eq!(board.beat(old), Beat::Gone);
    assert_eq!(board.seen(new), 0);
    assert_eq!((board.beat(new), board.seen(new)), (Beat::Noted, 1));
    assert_eq!(board.age(old), None);
}

#[test]
fn a_beat_between_look_and_judgement_is_not_overlooked() {
    let board = Board::new(Clock::new());
    let id = board.occupy(0);
    board.set_slow(id, false);
    let seen = board.seen(id);
    board.advance(Duration::from_secs(1));
    assert_eq!(board.beat(id), Beat::Noted);
    assert!(!board.silence(id, seen));
    assert!(board.silence(id, 1));
    assert_eq!(board.beat(id), Beat::Slow);
}

/// There are 2^24 generations: a handle would have to be older than as many occupants of its one slot.
#[test]
fn generations_wrap_and_leave_the_rest_of_the_word_alone() {
    let board = Board::new(Clock::new());
    let first = board.occupy(0);
    for _ in 0..(1 << 24) - 1 {
        assert_ne!(board.renew(0, NEVER), first);
    }
    board.advance(Duration::ZERO);
    let last = board.renew(0, NEVER);
    let seen = board.block(0).next().unwrap().1;
    assert_eq!((last, seen.tick(), seen.is_slow()), (first, 1, true));
}

#[test]
fn the_tick_of_a_beat_is_known_for_as_long_as_anybody_asks() {
    let board = Board::new(Clock::new());
    let id = board.occupy(0);
    board.hear(id, Duration::ZERO);
    board.set_slow(id, false);
    for second in 1..=10 {
        board.advance(Duration::from_secs(second));
    }
    assert_eq!((board.beat(id), board.heard(id)), (Beat::Noted, 10_000));
    board.settle(id);
    for second in 11..=2_000 {
        board.advance(Duration::from_secs(second));
        assert_eq!(board.heard(id), 10_000, "at {second}");
    }
}
