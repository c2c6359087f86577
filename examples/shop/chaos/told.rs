//! How processes hear which faults are on: each has switches of its own, which the shop matches with its own.

use axum::{Router, extract::Path, routing::put};
use http::StatusCode;

use super::{Chaos, Fault, Faults};
use crate::{notification::Mailing, shop::SLOW_MAIL};

/// `PUT /faults/{list}`, the names of all that are on with commas between them, or `none`. No gateway leads there.
pub(crate) fn router(chaos: &Chaos) -> Router {
    let chaos = chaos.clone();
    let hear = async move |Path(list): Path<String>| match read(&list) {
        Ok(faults) => {
            chaos.match_with(faults);
            (StatusCode::NO_CONTENT, String::new())
        }
        Err(why) => (StatusCode::NOT_FOUND, why),
    };
    Router::new().route("/faults/{list}", put(hear))
}

/// Where that is told.
pub(crate) fn path(faults: Faults) -> String {
    let names: Vec<_> = faults.iter().map(Fault::name).collect();
    format!("/faults/{}", if names.is_empty() { "none".to_owned() } else { names.join(",") })
}

fn read(list: &str) -> Result<Faults, String> {
    match list {
        "none" => Ok(Faults::default()),
        list => list.split(',').map(str::parse).collect(),
    }
}

/// How the server of mails behaves under these faults.
pub(crate) fn mailing(on: Faults) -> Mailing {
    match (on.has(Fault::MailFails), on.has(Fault::MailSlow)) {
        (true, _) => Mailing::Down,
        (_, true) => Mailing::Slow(SLOW_MAIL),
        _ => Mailing::Up,
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    async fn tell(router: &Router, path: &str) -> StatusCode {
        let request = http::Request::put(path).body(axum::body::Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn what_a_process_is_told_is_what_is_on_there_and_nothing_else() {
        let chaos = Chaos::default();
        let router = router(&chaos);
        let sets = [&[Fault::MailSlow, Fault::PaymentMute][..], &[Fault::PaymentMute], &[]];
        for set in sets {
            let set: Faults = set.iter().copied().collect();
            assert_eq!(tell(&router, &path(set)).await, StatusCode::NO_CONTENT);
            assert_eq!(chaos.on(), set);
        }
        assert_eq!(tell(&router, "/faults/mail-slow,fire").await, StatusCode::NOT_FOUND);
        assert!(chaos.on().is_empty(), "half of a list is none");
    }
}
