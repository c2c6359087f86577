//! The shop in a browser: one page, its style and its script, within this program.
//!
//! The gateway answers with them itself, so they are there when all services are gone. The page may load and call nothing but this shop, runs no script but its own, and cannot make
//! markup of text: what services say is never more than text.

use gusset::gateway::{FixedAnswer, Route};
use http::{HeaderName, HeaderValue, Method, header};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Path, type and content.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/shop.css", "text/css; charset=utf-8", include_str!("page/shop.css")),
    ("/shop.js", "text/javascript; charset=utf-8", include_str!("page/shop.js")),
];

/// The routes of the page.
pub(crate) fn routes() -> impl Iterator<Item = Route> {
    FILES.into_iter().map(|(path, kind, text)| {
        let fields: [(HeaderName, &'static str); 6] = [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        let page = FixedAnswer::new(http::StatusCode::OK).body(text);
        let page = fields
            .into_iter()
            .fold(page, |page, (name, value)| page.header(name, HeaderValue::from_static(value)));
        Route::new(path).methods([Method::GET]).answer(page)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_makes_no_markup() {
        for (path, _, text) in FILES {
            for bad in ["http://", "https://", "innerHTML", "outerHTML", "insertAdjacent", "eval("]
            {
                assert!(!text.contains(bad), "{bad} in {path}");
            }
        }
        assert!(!FILES[0].2.contains("style=") && !FILES[0].2.contains(" onclick"));
    }
}
