//! Reads a [`Filter`] from its text.

use super::{fields::Wrong, filter::Filter};

/// Of an expression, in bytes.
pub(super) const LONGEST: usize = 4_096;
/// Of parentheses and negations: each takes some of the stack.
pub(super) const DEEPEST: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Mark(&'static str),
}

pub(super) fn parse(text: &str) -> Result<Filter, Wrong> {
    if text.len() > LONGEST {
        return Err(wrong(&format!("longer than {LONGEST} bytes")));
    }
    let mut tokens = tokens(text)?;
    tokens.reverse();
    let mut parser = Parser(tokens, 0);
    let filter = parser.any()?;
    match parser.0.pop() {
        None => Ok(filter),
        Some(token) => Err(unexpected(Some(token))),
    }
}

fn wrong(what: &str) -> Wrong {
    Wrong(format!("Failed to create boolean expression evaluator: {what}"))
}

fn unexpected(token: Option<Token>) -> Wrong {
    match token {
        None => wrong("it ends too early"),
        Some(Token::Word(word) | Token::Quoted(word)) => wrong(&format!("unexpected {word:?}")),
        Some(Token::Mark(mark)) => wrong(&format!("unexpected {mark:?}")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, Wrong> {
    const MARKS: [&str; 6] = ["==", "!=", "(", ")", "[", "]"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            tokens.push(Token::Mark(mark));
            rest = &rest[mark.len()..];
        } else if first == '"' || first == '`' {
            let (text, after) = quoted(&rest[1..], first)?;
            tokens.push(Token::Quoted(text));
            rest = after;
        } else {
            let ends = |c: char| c.is_whitespace() || "=!()[]\"`".contains(c);
            let end = rest.find(ends).unwrap_or(rest.len());
            if end == 0 {
                return Err(wrong(&format!("unexpected {first:?}")));
            }
            tokens.push(Token::Word(rest[..end].into()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// Only double quotes know `\"` and `\\`.
fn quoted(rest: &str, quote: char) -> Result<(String, &str), Wrong> {
    let mut text = String::new();
    let mut chars = rest.char_indices();
    while let Some((place, c)) = chars.next() {
        if c == quote {
            return Ok((text, &rest[place + 1..]));
        }
        let escaped = (c == '\\' && quote == '"').then(|| chars.next()).flatten();
        text.push(escaped.map_or(c, |(_, c)| c));
    }
    Err(wrong("a quote is not closed"))
}

/// What is left, the next token last, and how deep it stands.
struct Parser(Vec<Token>, usize);

impl Parser {
    fn any(&mut self) -> Result<Filter, Wrong> {
        let mut parts = vec![self.all()?];
        while self.take("or") {
            parts.push(self.all()?);
        }
        Ok(Filter::Any(parts))
    }

    fn all(&mut self) -> Result<Filter, Wrong> {
        let mut parts = vec![self.one()?];
        while self.take("and") {
            parts.push(self.one()?);
        }
        Ok(Filter::All(parts))
    }

    fn one(&mut self) -> Result<Filter, Wrong> {
        let (negated, nested) = (self.take("not"), self.mark("("));
        if !negated && !nested {
            return self.comparison();
        }
        self.1 += 1;
        if self.1 > DEEPEST {
            return Err(wrong("it is nested too deeply"));
        }
        let inner = if nested { self.any()? } else { self.one()? };
        if nested && !self.mark(")") {
            return Err(unexpected(self.0.pop()));
        }
        self.1 -= 1;
        Ok(negate(inner, negated))
    }

    fn comparison(&mut self) -> Result<Filter, Wrong> {
        let left = self.operand()?;
        let negated = self.take("not");
        if self.take("in") {
            let value = left.concat_words();
            let filter = Filter::Contains(self.operand()?.selector()?, value);
            return Ok(negate(filter, negated));
        }
        let selector = left.selector()?;
        if self.take("contains") {
            let filter = Filter::Contains(selector, self.value()?);
            return Ok(negate(filter, negated));
        }
        if negated {
            return Err(unexpected(self.0.pop()));
        }
        if self.take("is") {
            let negated = self.take("not");
            let empty = self.take("empty");
            return match empty {
                true => Ok(negate(Filter::Empty(selector), negated)),
                false => Err(unexpected(self.0.pop())),
            };
        }
        let negated = self.mark("!=");
        if negated || self.mark("==") {
            return Ok(negate(Filter::Equals(selector, self.value()?), negated));
        }
        match self.0.pop() {
            Some(Token::Word(word)) if word == "matches" => {
                Err(wrong("\"matches\" is not served here"))
            }
            token => Err(unexpected(token)),
        }
    }

    /// A word or a quoted text, a word perhaps with `["key"]` behind it.
    fn operand(&mut self) -> Result<Operand, Wrong> {
        match self.0.pop() {
            Some(Token::Quoted(text)) => Ok(Operand::Value(text)),
            Some(Token::Word(word)) => {
                let mut path: Vec<String> = word.split('.').map(Into::into).collect();
                while self.mark("[") {
                    match (self.0.pop(), self.mark("]")) {
                        (Some(Token::Quoted(key)), true) => path.push(key),
                        (token, _) => return Err(unexpected(token)),
                    }
                }
                Ok(Operand::Word(word, path))
            }
            token => Err(unexpected(token)),
        }
    }

    fn value(&mut self) -> Result<String, Wrong> {
        match self.0.pop() {
            Some(Token::Quoted(text) | Token::Word(text)) => Ok(text),
            token => Err(unexpected(token)),
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let next = matches!(self.0.last(), Some(Token::Word(next)) if next == word);
        next && self.0.pop().is_some()
    }

    fn mark(&mut self, mark: &str) -> bool {
        let next = matches!(self.0.last(), Some(Token::Mark(next)) if *next == mark);
        next && self.0.pop().is_some()
    }
}

enum Operand {
    Value(String),
    Word(String, Vec<String>),
}

impl Operand {
    fn selector(self) -> Result<Vec<String>, Wrong> {
        match self {
            Self::Word(_, path) => Ok(path),
            Self::Value(text) => Err(wrong(&format!("{text:?} is no selector"))),
        }
    }

    fn concat_words(self) -> String {
        match self {
            Self::Value(text) | Self::Word(text, _) => text,
        }
    }
}

fn negate(filter: Filter, negated: bool) -> Filter {
    if negated { Filter::Not(Box::new(filter)) } else { filter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_is_refused_with_the_reason() {
        for (filter, reason) in [
            ("Service.Port ==", "it ends too early"),
            ("Service.Port", "it ends too early"),
            ("(a == b", "it ends too early"),
            ("a == b c", "unexpected \"c\""),
            ("a == \"b", "a quote is not closed"),
            ("\"a\" == b", "\"a\" is no selector"),
            ("a matches \"b.*\"", "\"matches\" is not served here"),
            ("a = b", "unexpected '='"),
        ] {
            let Wrong(said) = parse(filter).unwrap_err();
            assert!(said.ends_with(reason), "{filter}: {said}");
        }
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused() {
        let nested = |depth| format!("{}a == b{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(DEEPEST)).is_ok());
        for deep in [nested(DEEPEST + 1), nested(2_000), "not ".repeat(1_000)] {
            let Wrong(said) = parse(&deep).unwrap_err();
            assert!(said.ends_with("nested too deeply"), "{said}");
        }
        assert!(parse(&format!("{} or a == b", nested(DEEPEST))).is_ok(), "one after the other");
        assert!(parse(&"a".repeat(LONGEST + 1)).is_err());
    }
}
