//! Signals and orders.

use super::super::{
    Bed,
    kit::{Answer, LONG, begin, claim, commit, due, end, id, json, mail, open, park, release},
};
use crate::{Claim, Commit, Mail, StoreError};

pub(super) async fn mail_comes_once_in_order_and_wakes_who_waits(bed: &dyn Bed) -> Answer {
    let (store, other) = (open(bed).await, open(bed).await);
    let nowhere = store.send(&mail("a", "x")).await;
    assert!(matches!(nowhere, Err(StoreError::NoSuchSaga(_))));
    store.create(&begin("a", LONG)).await?;
    assert!(other.send(&mail("a", "x")).await?);
    assert!(!store.send(&mail("a", "x")).await?, "the same again");
    assert!(store.send(&mail("a", "y")).await?);
    let keys = |from| {
        let store = store.clone();
        async move {
            let found = store.mail(&id("a"), from).await?.into_iter();
            let found = found.map(|post| format!("{} {}", post.number, post.key));
            Answer::Ok(found.collect::<Vec<_>>())
        }
    };
    assert_eq!(keys(0).await?, ["0 x", "1 y"]);
    assert_eq!(keys(1).await?, ["1 y"]);
    assert_eq!(claim(&*store, due()).await, [], "mail breaks no lease");
    assert_eq!(store.renew(&[(id("a"), 1)], LONG).await?.mail, [id("a")]);

    store.append(&Commit { mail_taken: 2, ..commit("a", 1, 1) }).await?;
    assert_eq!(store.renew(&[(id("a"), 1)], LONG).await?.mail, []);
    assert_eq!(store.load(&id("a")).await?.expect("it is there").mail, []);
    assert!(!store.send(&mail("a", "y")).await?, "taken, but not forgotten");

    store.append(&Commit { mail_taken: 2, ..park("a", 2, None) }).await?;
    assert_eq!(claim(&*store, due()).await, []);
    assert!(other.send(&mail("a", "z")).await?);
    let claim = Claim { node: "two".into(), lease: LONG, wanted: due() };
    let journal = store.claim(&claim).await?.pop().expect("it is awake");
    assert_eq!((journal.mail_taken, journal.crashes, journal.mail.len()), (2, 0, 1));
    assert_eq!((journal.mail[0].number, &journal.mail[0].body), (2, &json("z")));
    Ok(())
}

pub(super) async fn mail_that_arrives_before_the_park_is_not_slept_over(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for saga in ["parked", "released"] {
        store.create(&begin(saga, LONG)).await?;
        store.send(&mail(saga, "x")).await?;
    }
    let far = Some(store.now().await? + 3_600_000);
    store.append(&park("parked", 1, None)).await?;
    store.release(&release("released", 1, far)).await?;
    let mut claimed = claim(&*store, due()).await;
    claimed.sort();
    assert_eq!(claimed, [("parked".to_owned(), 2), ("released".to_owned(), 2)]);
    Ok(())
}

pub(super) async fn mail_is_bounded_and_refused_after_the_end(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    for n in 0..Mail::MOST {
        assert!(store.send(&mail("a", &format!("key-{n}"))).await?);
    }
    let more = store.send(&mail("a", "more")).await;
    assert!(matches!(more, Err(StoreError::Full(_))), "{more:?}");
    assert!(!store.send(&mail("a", "key-7")).await?, "a second one needs no room");
    store.append(&end("a", 1, 1)).await?;
    let late = store.send(&mail("a", "late")).await;
    assert!(matches!(late, Err(StoreError::Ended(_))), "{late:?}");
    Ok(())
}
