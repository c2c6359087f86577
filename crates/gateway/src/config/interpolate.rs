//! Variables of the environment within texts.

/// `text` with each `${NAME}` and `${NAME:-default}` filled in; `$${` stands for `${`. `None` if there is none.
///
/// # Errors
///
/// Why it cannot be.
pub(super) fn filled(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &from[2..];
            continue;
        }
        filled.push_str(before);
        let Some((inner, after)) = from[2..].split_once('}') else {
            return Err("a ${ has no }; write ${NAME}, or $${ for the two characters".into());
        };
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(format!(
                "${{{inner}}} names no variable; write ${{NAME}} or ${{NAME:-default}}"
            ));
        }
        // As a shell has it: a variable that is set to nothing has the default as well.
        match (variable(name).filter(|value| !value.is_empty() || default.is_none()), default) {
            (Some(value), _) => filled.push_str(&value),
            (None, Some(default)) => filled.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment has no {name}; set it, or write ${{{name}:-default}}"
                ));
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(Some(filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<Option<String>, String> {
        filled(text, &|name| match name {
            "HOST" => Some("shop".into()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("${HOST}".into()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_filled_in_once() {
        for (text, expected) in [
            ("http://${HOST}:${PORT:-80}/", "http://shop:80/"),
            ("${EMPTY:-full}${EMPTY}", "full"),
            ("$${HOST} is ${HOST}", "${HOST} is shop"),
            ("${DOLLAR}", "${HOST}"),
            ("${NONE:-}", ""),
        ] {
            assert_eq!(fill(text), Ok(Some(expected.into())), "{text}");
        }
        assert_eq!(fill("$HOST {id} $"), Ok(None));
    }

    #[test]
    fn what_cannot_be_filled_in_is_told() {
        assert!(fill("${NONE}").unwrap_err().contains("has no NONE"));
        assert!(fill("${HOST").unwrap_err().contains("has no }"));
        assert!(fill("${}").unwrap_err().contains("names no variable"));
        assert!(fill("${A-B}").unwrap_err().contains("names no variable"));
    }
}
