use super::*;

const SPAN: Duration = Duration::from_secs(4);

fn all() -> Faults {
    Fault::all().collect()
}

#[test]
fn faults_are_read_as_they_are_written() {
    for (place, fault) in Fault::all().enumerate() {
        assert_eq!(fault as usize, place, "the table is in the order of the enum");
        assert_eq!(fault.name().parse(), Ok(fault));
        assert!(!fault.meaning().is_empty());
    }
    assert_eq!("fire".parse::<Fault>(), Err("there is no fault \"fire\"".to_owned()));
}

#[test]
fn the_same_seed_makes_the_same_schedule_and_all_faults_come_up() {
    let mut seen = Faults::default();
    for seed in 0..100 {
        let schedule = Schedule::random(seed, SPAN, all());
        assert_eq!(schedule, Schedule::random(seed, SPAN, all()));
        assert_ne!(schedule, Schedule::random(seed + 1, SPAN, all()));
        seen = seen.iter().chain(schedule.faults().iter()).collect();
    }
    assert_eq!(seen, all());
}

#[test]
fn in_a_schedule_each_fault_begins_and_ends_once_and_within_its_span() {
    for seed in 0..100 {
        let schedule = Schedule::random(seed, SPAN, all());
        let moments = schedule.moments();
        assert!(moments.is_sorted_by_key(|moment| moment.after), "{schedule}");
        assert!(moments.iter().all(|moment| moment.after <= SPAN), "{schedule}");
        for fault in schedule.faults().iter() {
            let of_fault: Vec<_> =
                moments.iter().filter(|it| it.fault == fault).map(|it| it.on).collect();
            assert_eq!(of_fault, [true, false], "{schedule}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_followed_to_the_moment_and_leaves_nothing_on() {
    let (chaos, faults) = (Chaos::default(), all());
    Fault::all().filter(|fault| fault.is_of_a_server()).for_each(|fault| chaos.offer(fault));
    let schedule = Schedule::random(7, SPAN, faults);
    chaos.follow(&schedule).await;
    assert!(chaos.on().is_empty());
    assert_eq!(chaos.age().as_millis(), SPAN.as_millis());
    let happened = chaos.happened();
    let planned = schedule.moments();
    assert_eq!(happened.len(), planned.len());
    for (happened, planned) in happened.iter().zip(planned) {
        assert_eq!((happened.fault, happened.on), (planned.fault, planned.on));
        // Timers are as fine as a millisecond.
        let late = happened.after.saturating_sub(planned.after);
        assert!(happened.after >= planned.after && late.as_millis() <= 1, "{happened} {planned}");
    }
}

#[test]
fn what_nobody_brings_about_cannot_be_switched_until_somebody_does() {
    let chaos = Chaos::default();
    assert_eq!(chaos.set(Fault::RedisDown, true), Err(NotHere(Fault::RedisDown)));
    assert!(!chaos.is_on(Fault::RedisDown) && chaos.happened().is_empty());
    chaos.offer(Fault::RedisDown);
    assert_eq!(chaos.set(Fault::RedisDown, true), Ok(true));
    assert_eq!(chaos.set(Fault::RedisDown, true), Ok(false), "it was on");
    chaos.calm();
    assert!(chaos.on().is_empty());
    assert_eq!(chaos.happened().len(), 2);
}

#[test]
fn what_is_remembered_of_switchings_is_bounded() {
    let chaos = Chaos::default();
    for _ in 0..REMEMBERED {
        chaos.set(Fault::MailSlow, true).unwrap();
        chaos.set(Fault::MailSlow, false).unwrap();
    }
    assert_eq!(chaos.happened().len(), REMEMBERED);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_of_a_fault_is_woken_by_it() {
    let chaos = Chaos::default();
    chaos.is_over(Fault::MailSlow).await;
    chaos.set(Fault::MailSlow, true).unwrap();
    let waiting = tokio::spawn({
        let chaos = chaos.clone();
        async move { chaos.is_over(Fault::MailSlow).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    chaos.calm();
    waiting.await.unwrap();
}
