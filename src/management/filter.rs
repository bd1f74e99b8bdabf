//! The `filter` of lists: `display_name="x" AND labels.team=a`, in the subset of <https://google.aip.dev/160> that Vertex AI
//! takes. OR binds more tightly than AND, as it is said there.

use crate::protocol::status::Status;

use super::state::shown;

/// Something that can be filtered.
pub trait Filtered {
    /// The fields that a filter may name, beside labels.
    const FIELDS: &'static [&'static str];

    /// The values that a field equals.
    fn values(&self, field: &str) -> Vec<&str>;

    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Each of them; without any, everything passes.
    All(Vec<Self>),
    /// One of them at least.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// A field has this value.
    Equals(String, String),
    /// A label has this value; `None`: any.
    Label(String, Option<String>),
}

/// How deep conditions may be nested.
const DEPTH: usize = 20;

impl Filter {
    /// Reads a filter for a kind of thing.
    pub fn parse<T: Filtered>(text: &str) -> Result<Self, Status> {
        let tokens = tokens(text).map_err(|reason| wrong(&reason))?;
        let mut parser = Parser { tokens: &tokens, fields: T::FIELDS };
        let filter = parser.all(0).map_err(|reason| wrong(&reason))?;
        match parser.tokens.first() {
            None => Ok(filter),
            Some(token) => Err(wrong(&format!("`{}` is not expected there", shown(token.text())))),
        }
    }

    /// Whether something passes.
    pub fn passes<T: Filtered>(&self, thing: &T) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.passes(thing)),
            Self::Any(filters) => filters.iter().any(|filter| filter.passes(thing)),
            Self::Not(filter) => !filter.passes(thing),
            Self::Equals(field, value) => thing.values(field).contains(&value.as_str()),
            Self::Label(key, value) => {
                thing.label(key).is_some_and(|label| value.as_deref().is_none_or(|value| value == label))
            }
        }
    }
}

fn wrong(reason: &str) -> Status {
    let message = format!(
        "filter can't be read: {reason}. It is made of FIELD=VALUE, FIELD!=VALUE, labels.KEY=VALUE and labels.KEY:*, with \
         AND, OR, NOT and parentheses"
    );
    Status::bad_field("filter", message)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(&'static str),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(text) | Self::Quoted(text) => text,
            Self::Sign(sign) => sign,
        }
    }

    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(text) if text == word)
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const SIGNS: [&str; 5] = ["!=", "=", ":", "(", ")"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if first == '"' || first == '\'' {
            let (quoted, after) = quoted(&rest[1..], first).ok_or("a quotation mark is not closed")?;
            tokens.push(Token::Quoted(quoted));
            rest = after;
        } else {
            let is_end = |letter: char| letter.is_whitespace() || "!=:()\"'".contains(letter);
            let length = rest.find(is_end).unwrap_or(rest.len());
            if length == 0 {
                return Err(format!("`{first}` is not expected there"));
            }
            tokens.push(Token::Word(rest[..length].to_owned()));
            rest = &rest[length..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// What stands before the closing mark, without its backslashes, and what comes after.
fn quoted(text: &str, mark: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '\\' => value.push(letters.next()?.1),
            _ if letter == mark => return Some((value, &text[index + letter.len_utf8()..])),
            _ => value.push(letter),
        }
    }
    None
}

struct Parser<'a> {
    tokens: &'a [Token],
    fields: &'static [&'static str],
}

impl Parser<'_> {
    fn take(&mut self) -> Option<&Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn take_if(&mut self, wanted: impl Fn(&Token) -> bool) -> bool {
        let is_it = self.tokens.first().is_some_and(wanted);
        if is_it {
            self.take();
        }
        is_it
    }

    fn all(&mut self, depth: usize) -> Result<Filter, String> {
        if depth > DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        let mut filters = Vec::new();
        while self.tokens.first().is_some_and(|token| *token != Token::Sign(")")) {
            if !filters.is_empty() {
                self.take_if(|token| token.is("AND"));
            }
            filters.push(self.any(depth)?);
        }
        Ok(Filter::All(filters))
    }

    fn any(&mut self, depth: usize) -> Result<Filter, String> {
        let mut filters = vec![self.one(depth)?];
        while self.take_if(|token| token.is("OR")) {
            filters.push(self.one(depth)?);
        }
        Ok(Filter::Any(filters))
    }

    fn one(&mut self, depth: usize) -> Result<Filter, String> {
        if self.take_if(|token| token.is("NOT")) {
            return Ok(Filter::Not(Box::new(self.one_inside(depth)?)));
        }
        self.one_inside(depth)
    }

    fn one_inside(&mut self, depth: usize) -> Result<Filter, String> {
        if self.take_if(|token| *token == Token::Sign("(")) {
            let filter = self.all(depth + 1)?;
            return match self.take() {
                Some(Token::Sign(")")) => Ok(filter),
                _ => Err("a parenthesis is not closed".to_owned()),
            };
        }
        self.condition()
    }

    fn condition(&mut self) -> Result<Filter, String> {
        let field = match self.take() {
            Some(Token::Word(word)) => word.clone(),
            Some(token) => return Err(format!("`{}` is not a field", shown(token.text()))),
            None => return Err("it ends too soon".to_owned()),
        };
        let sign = match self.take() {
            Some(Token::Sign(sign @ ("=" | "!=" | ":"))) => *sign,
            _ => return Err(format!("=, != or : must follow `{}`", shown(&field))),
        };
        let value = match self.take() {
            Some(Token::Word(value) | Token::Quoted(value)) => value.clone(),
            _ => return Err(format!("a value must follow `{}{sign}`", shown(&field))),
        };
        let condition = match (field.as_str(), field.strip_prefix("labels."), sign) {
            ("labels", _, ":") => Filter::Label(value, None),
            (_, Some(key), ":") if value == "*" => Filter::Label(key.to_owned(), None),
            (_, Some(key), _) => Filter::Label(key.to_owned(), Some(value)),
            (_, None, "=" | "!=") => Filter::Equals(self.field(&field)?, value),
            _ => return Err(format!("`:` is for labels, not for `{}`", shown(&field))),
        };
        Ok(if sign == "!=" { Filter::Not(Box::new(condition)) } else { condition })
    }

    /// The field of a name, which may be written in both cases of Google's JSON.
    fn field(&self, name: &str) -> Result<String, String> {
        let snake = super::masks::snake_case(name);
        match self.fields.contains(&snake.as_str()) {
            true => Ok(snake),
            false => Err(format!("`{}` is not a field to filter by; there are {} and labels", shown(name), {
                self.fields.join(", ")
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;

    impl Filtered for Thing {
        const FIELDS: &'static [&'static str] = &["endpoint", "display_name"];

        fn values(&self, field: &str) -> Vec<&str> {
            match field {
                "endpoint" => vec!["7", "projects/p/locations/l/endpoints/7"],
                _ => vec!["My \"own\" = 1"],
            }
        }

        fn label(&self, key: &str) -> Option<&str> {
            (key == "team").then_some("a-b_1")
        }
    }

    fn passes(text: &str) -> bool {
        Filter::parse::<Thing>(text).unwrap_or_else(|error| panic!("{text}: {}", error.message)).passes(&Thing)
    }

    #[test]
    fn conditions() {
        for text in [
            "",
            " ",
            "endpoint=7",
            "endpoint=\"projects/p/locations/l/endpoints/7\"",
            "display_name=\"My \\\"own\\\" = 1\"",
            "displayName = 'My \"own\" = 1'",
            "displayName!=x",
            "labels.team=a-b_1",
            "labels.team:*",
            "labels:team",
            "labels.other!=a",
            "NOT endpoint=8",
            "endpoint=7 AND labels.team=a-b_1",
            "endpoint=7 labels.team=a-b_1",
            "endpoint=8 OR endpoint=7",
            "(endpoint=8 AND endpoint=9) OR labels.team:*",
            "endpoint=7 AND endpoint=8 OR endpoint=7",
        ] {
            assert!(passes(text), "{text}");
        }
        for text in [
            "endpoint=8",
            "endpoint!=7",
            "labels.team=a",
            "labels.other:*",
            "labels:other",
            "NOT endpoint=7",
            "endpoint=7 AND endpoint=8",
            "endpoint=8 AND endpoint=7 OR endpoint=7",
            "NOT (endpoint=7 OR endpoint=8)",
        ] {
            assert!(!passes(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let deep = format!("{}endpoint=7{}", "(".repeat(1000), ")".repeat(1000));
        for text in [
            "endpoint",
            "=7",
            "endpoint=",
            "colour=red",
            "endpoint:7",
            "(endpoint=7",
            "endpoint=7)",
            "endpoint=\"7",
            "endpoint=7 OR",
            "!",
            "NOT",
            "display_name=~x!",
            &deep,
        ] {
            let error = Filter::parse::<Thing>(text).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("filter"), "{text}");
        }
    }
}
