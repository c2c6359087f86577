use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Route;
use crate::headers::has_member;

/// What a request must say besides host, path and method, for a route to take it: [`Route::when`].
///
/// Made by [`header`](Self::header), [`query`](Self::query) or [`cookie`](Self::cookie), it asks that there is one, whatever it says; the others ask for more. Values are
/// compared as they are, with the case of letters.
///
/// What is there twice has no value that everybody reads alike: it is present, but equal to nothing.
///
/// ```
/// use gusset_gateway::{Condition, Route};
///
/// // Versions by path, by a field, and by media type.
/// let by_path = Route::new("/v2/orders").to("orders-2").rewrite("/orders");
/// let by_field = Route::new("/orders").when(Condition::header("api-version").is("2")).to("orders-2");
/// let v2 = Condition::header("accept").has("application/vnd.shop.v2+json");
/// let by_type = Route::new("/orders").when(v2).to("orders-2");
/// let otherwise = Route::new("/orders").to("orders-1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    of: Of,
    wants: Wants,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Header(String),
    Query(String),
    Cookie(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    Present,
    Absent,
    OneOf(Vec<String>),
    BeginsWith(String),
    Has(String),
}

impl Condition {
    /// The request has the field `name`. Fields that the gateway removes, such as `x-forwarded-*` of strangers, are not there.
    pub fn header(name: impl Into<String>) -> Self {
        Self { of: Of::Header(name.into()), wants: Wants::Present }
    }

    /// The query has the parameter `name`, `name=value` or `name` alone between `&`s. Names and values are compared decoded, `+` is a space.
    pub fn query(name: impl Into<String>) -> Self {
        Self { of: Of::Query(name.into()), wants: Wants::Present }
    }

    /// The request has the cookie `name`.
    pub fn cookie(name: impl Into<String>) -> Self {
        Self { of: Of::Cookie(name.into()), wants: Wants::Present }
    }

    /// It is there once, and is `value`.
    #[must_use]
    pub fn is(self, value: impl Into<String>) -> Self {
        self.one_of([value])
    }

    /// It is there once, and is one of these.
    #[must_use]
    pub fn one_of<V: Into<String>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.wants = Wants::OneOf(values.into_iter().map(Into::into).collect());
        self
    }

    /// It is there once, and begins so.
    #[must_use]
    pub fn begins_with(mut self, text: impl Into<String>) -> Self {
        self.wants = Wants::BeginsWith(text.into());
        self
    }

    /// It is a field with a comma-separated list, in which `member` stands, in whatever case and with whatever parameters after a semicolon: what one asks of `Accept`.
    #[must_use]
    pub fn has(mut self, member: impl Into<String>) -> Self {
        self.wants = Wants::Has(member.into());
        self
    }

    /// It is not there.
    #[must_use]
    pub fn absent(mut self) -> Self {
        self.wants = Wants::Absent;
        self
    }

    /// # Errors
    ///
    /// Why it can never hold.
    pub(crate) fn compile(&self) -> Result<Test, String> {
        let (kind, name) = match &self.of {
            Of::Header(name) => ("field", name),
            Of::Query(name) => ("parameter", name),
            Of::Cookie(name) => ("cookie", name),
        };
        match &self.wants {
            Wants::OneOf(values) if values.is_empty() => {
                return Err(format!("the condition on {kind} {name:?} allows no value at all"));
            }
            Wants::Has(_) if !matches!(self.of, Of::Header(_)) => {
                return Err(format!(
                    "has(…) is for lists in header fields, and {name:?} is a {kind}"
                ));
            }
            _ => {}
        }
        let place = match &self.of {
            Of::Header(text) => match HeaderName::try_from(text.as_str()) {
                Ok(name) => Place::Header(name),
                Err(_) => return Err(format!("{text:?} is no name of a header field")),
            },
            Of::Query(name) => Place::Query(name.as_str().into()),
            Of::Cookie(name) if name.is_empty() || name.contains(['=', ';', ' ', ',']) => {
                return Err(format!("{name:?} is no name of a cookie"));
            }
            Of::Cookie(name) => Place::Cookie(name.as_str().into()),
        };
        Ok(Test { place, wants: self.wants.clone() })
    }
}

impl Route {
    /// Only requests that meet this condition as well. Others may take another route with the same path or a less specific
    /// one; where there is none, the path is not found (404).
    ///
    /// Pages of other origins can set fields only after a preflight, which does not have them: it is answered by the first route that would take the request with them.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Goes before routes of lower rank with the same host and path, however many conditions they have. Default 0. Needed where two routes have as many
    /// conditions, and some request meets both.
    #[must_use]
    pub const fn rank(mut self, rank: i32) -> Self {
        self.rank = rank;
        self
    }
}

/// A condition that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    place: Place,
    wants: Wants,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header(HeaderName),
    Query(Box<str>),
    Cookie(Box<str>),
}

impl Test {
    /// Whether it holds. Of what is not known, `None`, it does.
    pub(super) fn holds(&self, headers: Option<&HeaderMap>, query: Option<&str>) -> bool {
        match (&self.place, headers) {
            (Place::Query(name), _) => self.by(&mut Parameters::of(query, name)),
            (_, None) => true,
            (Place::Header(name), Some(headers)) => self.of_field(headers, name),
            (Place::Cookie(name), Some(headers)) => {
                self.by(&mut cookies(headers, name).map(|value| value.iter().copied()))
            }
        }
    }

    fn of_field(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        if let Wants::Has(member) = &self.wants {
            let mut lines = headers.get_all(name).iter();
            return lines.any(|line| has_member(line, member.as_bytes()));
        }
        self.by(&mut headers.get_all(name).iter().map(|line| line.as_bytes().iter().copied()))
    }

    fn by<V: Iterator<Item = u8> + Clone>(&self, values: &mut impl Iterator<Item = V>) -> bool {
        let Some(value) = values.next() else { return self.wants == Wants::Absent };
        let mut only = || values.next().is_none();
        match &self.wants {
            Wants::Present => true,
            Wants::Absent | Wants::Has(_) => false,
            Wants::OneOf(these) => these.iter().any(|one| value.clone().eq(one.bytes())) && only(),
            Wants::BeginsWith(text) => {
                let begin = value.take(text.len());
                begin.eq(text.bytes()) && only()
            }
        }
    }

    /// Whether no request can meet both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        use Wants::{Absent, BeginsWith, OneOf};
        if self.place != other.place {
            return false;
        }
        match (&self.wants, &other.wants) {
            (Absent, Absent) => false,
            (Absent, _) | (_, Absent) => true,
            (OneOf(one), OneOf(another)) => !one.iter().any(|value| another.contains(value)),
            (BeginsWith(text), OneOf(values)) | (OneOf(values), BeginsWith(text)) => {
                !values.iter().any(|value| value.starts_with(&**text))
            }
            (BeginsWith(one), BeginsWith(another)) => {
                !one.starts_with(&**another) && !another.starts_with(&**one)
            }
            _ => false,
        }
    }
}

/// The values of a cookie.
pub(crate) fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let crumbs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    crumbs.filter_map(move |crumb| {
        crumb.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    })
}

/// The values of a parameter of a query.
struct Parameters<'q> {
    pairs: std::str::Split<'q, char>,
    name: &'q str,
}

impl<'q> Parameters<'q> {
    fn of(query: Option<&'q str>, name: &'q str) -> Self {
        Self { pairs: query.unwrap_or_default().split('&'), name }
    }
}

impl<'q> Iterator for Parameters<'q> {
    type Item = Decoded<'q>;

    fn next(&mut self) -> Option<Decoded<'q>> {
        let name = self.name;
        self.pairs.by_ref().filter(|pair| !pair.is_empty()).find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Decoded(key.as_bytes()).eq(name.bytes()).then_some(Decoded(value.as_bytes()))
        })
    }
}

/// The bytes of a part of a query, without their encoding. What is encoded badly stands for itself.
#[derive(Clone)]
struct Decoded<'q>(&'q [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let bytes = self.0;
        let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (byte, length) = match (*bytes.first()?, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => (u8::try_from(high * 16 + low).ok()?, 3),
            (b'+', ..) => (b' ', 1),
            (byte, ..) => (byte, 1),
        };
        self.0 = &bytes[length..];
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &Condition, headers: &[(&'static str, &'static str)], query: &str) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        condition.compile().unwrap().holds(Some(&map), Some(query))
    }

    #[test]
    fn a_field_is_compared_as_it_is_and_counts_once() {
        let is = Condition::header("X-Beta").is("1");
        assert!(holds(&is, &[("x-beta", "1")], ""));
        for other in
            [&[("x-beta", "1"), ("x-beta", "1")][..], &[("x-beta", "1, 1")], &[], &[("x-beta", "")]]
        {
            assert!(!holds(&is, other, ""), "{other:?}");
        }
        let begins = Condition::header("x-beta").begins_with("ab");
        assert!(
            holds(&begins, &[("x-beta", "abc")], "") && !holds(&begins, &[("x-beta", "a")], "")
        );
        let (there, absent) = (Condition::header("x-a"), Condition::header("x-a").absent());
        for (fields, is_there) in
            [(&[("x-a", "")][..], true), (&[("x-a", "1"), ("x-a", "2")], true), (&[], false)]
        {
            assert_eq!(holds(&there, fields, ""), is_there);
            assert_eq!(holds(&absent, fields, ""), !is_there);
        }
    }

    #[test]
    fn a_member_of_a_list_is_found_with_parameters_and_in_any_line() {
        let v2 = Condition::header("accept").has("application/vnd.shop.v2+json");
        assert!(holds(&v2, &[("accept", "text/html, Application/vnd.shop.v2+JSON;q=0.5")], ""));
        assert!(holds(&v2, &[("accept", "a/b"), ("accept", "application/vnd.shop.v2+json")], ""));
        assert!(!holds(&v2, &[("accept", "application/vnd.shop.v2+json5")], ""));
    }

    #[test]
    fn parameters_of_the_query_are_compared_decoded() {
        let is = |value: &str| Condition::query("na me").is(value);
        assert!(holds(&is("a b/é"), &[], "x=1&na+me=a%20b%2f%C3%a9"));
        assert!(holds(&is(""), &[], "na%20me"));
        assert!(holds(&is("%zz%"), &[], "na me=%zz%"));
        assert!(!holds(&is("1"), &[], "na+me=1&na+me=2"), "servers take the first or the last");
        assert!(!holds(&is("1"), &[], "") && holds(&Condition::query("a").absent(), &[], "b=1"));
        assert!(holds(&Condition::query("a").is("b=c"), &[], "&a=b=c&"));
    }

    #[test]
    fn cookies_are_found_among_others_and_in_crumbs() {
        let beta = Condition::cookie("beta").one_of(["1", "2"]);
        assert!(holds(&beta, &[("cookie", "a=1; beta=2;c=3")], ""));
        assert!(holds(&beta, &[("cookie", "a=1"), ("cookie", "beta=1")], ""));
        assert!(!holds(&beta, &[("cookie", "xbeta=1; beta2=1; beta=3")], ""));
        assert!(!holds(&beta, &[("cookie", "beta=1; beta=1")], ""));
    }

    #[test]
    fn what_can_never_hold_is_refused() {
        for bad in [
            Condition::header("a b"),
            Condition::header("x").one_of(Vec::<String>::new()),
            Condition::query("x").has("y"),
            Condition::cookie("a=b"),
        ] {
            assert!(bad.compile().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn conditions_exclude_each_other_if_no_request_meets_both() {
        let x = || Condition::header("x");
        for (one, other, exclude) in [
            (x().is("1"), x().is("2"), true),
            (x().is("1"), x().one_of(["1", "2"]), false),
            (x().is("1"), Condition::header("y").is("2"), false),
            (x(), x().absent(), true),
            (x(), x().is("1"), false),
            (x().begins_with("2."), x().is("2.1"), false),
            (x().begins_with("2."), x().is("3"), true),
            (x().begins_with("2."), x().begins_with("2.1"), false),
            (x().begins_with("2."), x().begins_with("3."), true),
            (x().has("a"), x().has("b"), false),
        ] {
            let (one, other) = (one.compile().unwrap(), other.compile().unwrap());
            assert_eq!(one.excludes(&other), exclude, "{one:?} {other:?}");
            assert_eq!(other.excludes(&one), exclude, "{one:?} {other:?}");
        }
    }
}
