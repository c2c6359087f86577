//! The environment variables of the OpenTelemetry specification.

use std::{collections::HashMap, fmt};

use super::InitError;
use crate::Ratio;

/// Variables by name: those of the process unless others are given. An empty one is as good as none, as the specification has it.
#[derive(Clone, Default)]
pub(super) struct Environment(Option<HashMap<String, String>>);

impl Environment {
    pub(super) fn of<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self(Some(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        let value = match &self.0 {
            Some(variables) => variables.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.trim().is_empty())
    }

    /// What `OTEL_TRACES_SAMPLER` and its argument ask for.
    pub(super) fn sampler(&self) -> Result<Option<Ratio>, InitError> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let Some(sampler) = self.get(NAME) else { return Ok(None) };
        match sampler.trim() {
            "parentbased_always_on" | "always_on" => Ok(Some(Ratio::ALL)),
            "parentbased_always_off" | "always_off" => Ok(Some(Ratio::NONE)),
            "parentbased_traceidratio" | "traceidratio" => self.ratio().map(Some),
            _ => Err(InitError::variable(NAME, "is no sampler that is known here")),
        }
    }

    fn ratio(&self) -> Result<Ratio, InitError> {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(text) = self.get(NAME) else { return Ok(Ratio::ALL) };
        let share = text.trim().parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        let share = share.ok_or_else(|| InitError::variable(NAME, "is no share from 0 to 1"))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1")]
        Ok(Ratio::per_million((share * 1e6).round() as u32))
    }
}

#[cfg(feature = "otlp")]
impl Environment {
    /// `true` or `false`, in letters of any size. Default false.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, InitError> {
        match self.get(name).map(|value| value.trim().to_ascii_lowercase()).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(InitError::variable(name, "is neither true nor false")),
        }
    }

    /// `key=value` pairs with commas between them; the values are percent-encoded, as in W3C baggage, whose properties are passed over. The error does
    /// not tell the values, for they may be secret.
    pub(super) fn pairs(&self, name: &'static str) -> Result<Vec<(String, String)>, InitError> {
        let Some(text) = self.get(name) else { return Ok(Vec::new()) };
        let pair = |member: &str| {
            let (key, value) = member.split_once('=')?;
            let value = value.split(';').next()?;
            let key = key.trim();
            (!key.is_empty()).then(|| Some((key.to_owned(), decoded(value.trim())?)))?
        };
        let members = text.split(',').filter(|member| !member.trim().is_empty());
        members
            .map(|member| {
                pair(member).ok_or_else(|| InitError::variable(name, "is no list of key=value"))
            })
            .collect()
    }
}

/// Names only: a value may be secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(variables) => f.debug_set().entries(variables.keys()).finish(),
            None => f.write_str("of the process"),
        }
    }
}

/// Without its percent-encoding; none if that is broken.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || (rest.next()? as char).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "otlp")]
    #[test]
    fn pairs_are_read_as_baggage_is() {
        let read = |text| Environment::of([("P", text)]).pairs("P");
        let pairs = read(" a = 1 ,b=x%20y%3D;meta=1,,c=").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y="), ("c", "")]);
        assert_eq!(read("  ").unwrap(), []);
        for bad in ["secret", "=secret", "a=secret%2", "a=secret%zz", "a=secret%ff"] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.to_string(), "cannot set up telemetry: P is no list of key=value");
            assert!(!format!("{error:?}").contains("secret"));
        }
    }

    #[test]
    fn a_sampler_is_a_share_of_the_traces_that_begin_here() {
        let read = |sampler, arg| {
            let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", arg)];
            Environment::of(variables).sampler()
        };
        assert_eq!(read("", "").unwrap(), None);
        assert_eq!(read("parentbased_always_off", "").unwrap(), Some(Ratio::NONE));
        assert_eq!(read("always_on", "0").unwrap(), Some(Ratio::ALL));
        assert_eq!(read("parentbased_traceidratio", "0.25").unwrap(), Some(Ratio::percent(25)));
        assert_eq!(read("traceidratio", "").unwrap(), Some(Ratio::ALL));
        for arg in ["-0.1", "1.1", "NaN", "x"] {
            let error = read("traceidratio", arg).unwrap_err().to_string();
            assert!(error.ends_with("OTEL_TRACES_SAMPLER_ARG is no share from 0 to 1"), "{error}");
        }
        let error = read("jaeger_remote", "").unwrap_err().to_string();
        assert!(error.contains("OTEL_TRACES_SAMPLER "), "{error}");
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn a_flag_is_true_or_false_and_nothing_else() {
        let read = |value| Environment::of([("F", value)]).flag("F");
        assert!(read("TRUE").unwrap() && !read("False").unwrap() && !read("").unwrap());
        assert!(read("1").is_err());
    }
}
