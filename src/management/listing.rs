//! Lists: filtered, ordered, a page at a time.
//!
//! A page's token holds where in the order the page ended, not how far it was from the beginning, so that what comes and
//! goes in between makes no page repeat or skip anything else.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost_types::Timestamp;

use crate::endpoint::derived_id;
use crate::protocol::status::Status;

use super::filter::{Filter, Filtered};
use super::state::shown;

/// What a request says about the list that it wants.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// See [`Filter`].
    pub filter: &'a str,
    /// Such as `display_name, create_time desc`.
    pub order_by: &'a str,
    /// 0 leaves it to the server.
    pub page_size: i32,
    /// Of the page before.
    pub page_token: &'a str,
}

/// Something that is listed.
pub trait Listed: Filtered {
    /// Its id, and its version where it has one; unique in the list.
    fn id(&self) -> (&str, &str);

    /// What it is called.
    fn display_name(&self) -> &str;

    /// When it was made.
    fn create_time(&self) -> Option<&Timestamp>;

    /// When it was last changed.
    fn update_time(&self) -> Option<&Timestamp>;
}

/// A page's size where none is given, and the largest.
const PAGE: (usize, usize) = (100, 1000);

/// The size of a page.
pub fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE.0),
        Ok(size) => Ok(size.min(PAGE.1)),
        Err(_) => Err(Status::bad_field("page_size", format!("page_size is {asked}; it must not be negative"))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    DisplayName,
    CreateTime,
    UpdateTime,
}

const KEYS: [(&str, Key); 3] =
    [("display_name", Key::DisplayName), ("create_time", Key::CreateTime), ("update_time", Key::UpdateTime)];

/// Keys, and whether each descends.
#[derive(Debug, PartialEq)]
struct Order(Vec<(Key, bool)>);

impl Order {
    /// Without any key, what was made last comes first.
    fn parse(text: &str) -> Result<Self, Status> {
        if text.trim().is_empty() {
            return Ok(Self(vec![(Key::CreateTime, true)]));
        }
        let key = |part: &str| {
            let words: Vec<&str> = part.split_whitespace().collect();
            let (name, descends) = match words[..] {
                [name] | [name, "asc"] => (name, false),
                [name, "desc"] => (name, true),
                _ => return None,
            };
            let name = super::masks::snake_case(name);
            KEYS.into_iter().find(|(known, _)| *known == name).map(|(_, key)| (key, descends))
        };
        let wrong = |part: &str| {
            let message = format!(
                "order_by has `{}`; it must be display_name, create_time or update_time, each with or without desc",
                shown(part.trim())
            );
            Status::bad_field("order_by", message)
        };
        text.split(',').map(|part| key(part).ok_or_else(|| wrong(part))).collect::<Result<_, _>>().map(Self)
    }

    /// What something is ordered by.
    fn place<T: Listed>(&self, thing: &T) -> Vec<String> {
        // Twenty digits hold any number of seconds, so that the order of texts is that of times.
        let time = |time: Option<&Timestamp>| {
            let Timestamp { seconds, nanos } = time.copied().unwrap_or_default();
            format!("{:020}{nanos:09}", seconds.max(0))
        };
        let key = |key: &(Key, bool)| match key.0 {
            Key::DisplayName => thing.display_name().to_owned(),
            Key::CreateTime => time(thing.create_time()),
            Key::UpdateTime => time(thing.update_time()),
        };
        self.0.iter().map(key).chain([thing.id().0.to_owned(), thing.id().1.to_owned()]).collect()
    }

    fn compare(&self, left: &[String], right: &[String]) -> Ordering {
        let descends = self.0.iter().map(|(_, descends)| *descends).chain([false, false]);
        let each = left.iter().zip(right).zip(descends);
        each.map(|((left, right), descends)| if descends { right.cmp(left) } else { left.cmp(right) })
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

/// The page that is asked for, and the token of the next one, empty when there is none.
pub fn page<T: Listed>(things: impl Iterator<Item = T>, query: &Query<'_>) -> Result<(Vec<T>, String), Status> {
    let size = page_size(query.page_size)?;
    let filter = Filter::parse::<T>(query.filter)?;
    let order = Order::parse(query.order_by)?;
    // A token is of no use with another question.
    let question = derived_id(&[query.filter, query.order_by]);
    let after = match query.page_token {
        "" => None,
        token => Some(read_token(token, &question, order.0.len() + 2)?),
    };
    let mut found: Vec<(Vec<String>, T)> = things
        .filter(|thing| filter.passes(thing))
        .map(|thing| (order.place(&thing), thing))
        .filter(|(place, _)| after.as_ref().is_none_or(|after| order.compare(place, after).is_gt()))
        .collect();
    found.sort_by(|(left, _), (right, _)| order.compare(left, right));
    let is_more = found.len() > size;
    found.truncate(size);
    let next = found.last().filter(|_| is_more).map(|(place, _)| write_token(&question, place));
    Ok((found.into_iter().map(|(_, thing)| thing).collect(), next.unwrap_or_default()))
}

fn write_token(question: &str, place: &[String]) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::json!([question, place]).to_string())
}

fn read_token(token: &str, question: &str, length: usize) -> Result<Vec<String>, Status> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let read: Option<(String, Vec<String>)> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    read.filter(|(of, place)| of == question && place.len() == length).map(|(_, place)| place).ok_or_else(|| {
        let message = "page_token must be the next_page_token of an answer to the same filter and order_by";
        Status::bad_field("page_token", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Thing(String, String, Timestamp);

    impl Filtered for Thing {
        const FIELDS: &'static [&'static str] = &["display_name"];

        fn values(&self, _: &str) -> Vec<&str> {
            vec![&self.1]
        }

        fn label(&self, _: &str) -> Option<&str> {
            None
        }
    }

    impl Listed for Thing {
        fn id(&self) -> (&str, &str) {
            (&self.0, "")
        }

        fn display_name(&self) -> &str {
            &self.1
        }

        fn create_time(&self) -> Option<&Timestamp> {
            Some(&self.2)
        }

        fn update_time(&self) -> Option<&Timestamp> {
            None
        }
    }

    fn things() -> Vec<Thing> {
        let thing = |id: u8| {
            let name = if id.is_multiple_of(2) { "even" } else { "odd" };
            Thing(format!("{id:02}"), name.to_owned(), Timestamp { seconds: 100 - i64::from(id), nanos: 0 })
        };
        (1..=9).map(thing).collect()
    }

    const QUERY: Query<'_> = Query { filter: "", order_by: "", page_size: 4, page_token: "" };

    fn ids(query: Query<'_>) -> String {
        let (mut token, mut ids) = (String::new(), Vec::new());
        loop {
            let (page, next) = page(things().into_iter(), &Query { page_token: &token, ..query }).unwrap();
            ids.push(page.iter().map(|thing| thing.0.trim_start_matches('0')).collect::<String>());
            match next {
                next if next.is_empty() => return ids.join(" "),
                next => token = next,
            }
        }
    }

    #[test]
    fn pages_follow_the_order() {
        assert_eq!(ids(QUERY), "1234 5678 9");
        assert_eq!(ids(Query { order_by: "create_time", ..QUERY }), "9876 5432 1");
        assert_eq!(ids(Query { order_by: "displayName, createTime desc", ..QUERY }), "2468 1357 9");
        assert_eq!(ids(Query { order_by: "display_name desc,create_time", page_size: 5, ..QUERY }), "97531 8642");
        assert_eq!(ids(Query { filter: "display_name=even", ..QUERY }), "2468");
        assert_eq!(ids(Query { page_size: 0, ..QUERY }), "123456789");
    }

    #[test]
    fn what_goes_away_between_pages_moves_nothing() {
        let (_, token) = page(things().into_iter(), &QUERY).unwrap();
        let rest = things().into_iter().filter(|thing| thing.0 != "04");
        let (next, _) = page(rest, &Query { page_token: &token, ..QUERY }).unwrap();
        assert_eq!(next[0].0, "05");
    }

    #[test]
    fn wrong_questions_name_their_field() {
        let field = |query: Query<'_>| page(things().into_iter(), &query).err().and_then(|status| status.field);
        assert_eq!(field(Query { page_size: -1, ..QUERY }).as_deref(), Some("page_size"));
        assert_eq!(field(Query { order_by: "colour", ..QUERY }).as_deref(), Some("order_by"));
        assert_eq!(field(Query { order_by: "display_name up", ..QUERY }).as_deref(), Some("order_by"));
        assert_eq!(field(Query { page_token: "nonsense", ..QUERY }).as_deref(), Some("page_token"));
        let (_, token) = page(things().into_iter(), &QUERY).unwrap();
        assert_eq!(
            field(Query { page_token: &token, filter: "display_name=odd", ..QUERY }).as_deref(),
            Some("page_token")
        );
    }
}
