//! The rules of a traffic split: percents by the ids of deployed models.

use std::collections::HashMap;

use crate::protocol::status::{Code, Status};

use super::state::shown;

/// Percents by ids.
pub type Split = HashMap<String, i32>;

/// The key that stands for the model that is being deployed.
const NEW: &str = "0";

/// A split that a request gave, checked: the values add up to 100 and each key is one of the deployed models; `new` is
/// the id that key "0" stands for, where a model is being deployed. Without any entry there is none.
pub fn checked<'a>(
    field: &str,
    split: &Split,
    deployed: impl Iterator<Item = &'a str>,
    new: Option<&str>,
) -> Result<Option<Split>, Status> {
    if split.is_empty() {
        return Ok(None);
    }
    let deployed: Vec<&str> = deployed.collect();
    let mut checked = Split::new();
    for (key, &percent) in split {
        let id = match new {
            Some(new) if key == NEW || key == new => new,
            _ if deployed.contains(&key.as_str()) => key,
            _ => {
                let message = format!(
                    "{field} has the key `{}`, which is no deployed model of this endpoint; there are: {}",
                    shown(key),
                    deployed.join(", ")
                );
                return Err(Status::bad_field(field, message));
            }
        };
        if !(0..=100).contains(&percent) {
            let message = format!("{field}[{}] is {percent}; it must be 0 to 100", shown(key));
            return Err(Status::bad_field(field, message));
        }
        if checked.insert(id.to_owned(), percent).is_some() {
            return Err(Status::bad_field(field, format!("{field} names the deployed model `{}` twice", shown(id))));
        }
    }
    match checked.values().sum::<i32>() {
        100 => Ok(Some(checked)),
        sum => Err(Status::bad_field(field, format!("{field} adds up to {sum}; it must add up to 100"))),
    }
}

/// The split after a model is undeployed. `given` is the request's, already without it.
pub fn without(split: &Split, id: &str, given: Option<Split>, is_last: bool) -> Result<Split, Status> {
    match given {
        _ if is_last => Ok(Split::new()),
        Some(given) => Ok(given),
        None if split.get(id).copied().unwrap_or(0) == 0 => {
            let mut split = split.clone();
            split.remove(id);
            Ok(split)
        }
        None => {
            let message = format!(
                "deployed model `{id}` still gets traffic: give a trafficSplit that sends it to the others, or update the \
                 endpoint's first"
            );
            Err(Status::new(Code::FailedPrecondition, message).because("DEPLOYED_MODEL_HAS_TRAFFIC"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(entries: &[(&str, i32)]) -> Split {
        entries.iter().map(|(key, percent)| ((*key).to_owned(), *percent)).collect()
    }

    fn check(entries: &[(&str, i32)], deployed: &[&str], new: Option<&str>) -> Result<Option<Split>, String> {
        checked("trafficSplit", &split(entries), deployed.iter().copied(), new).map_err(|status| status.message)
    }

    #[test]
    fn zero_stands_for_the_new_one() {
        assert_eq!(check(&[("0", 20), ("7", 80)], &["7"], Some("9")), Ok(Some(split(&[("9", 20), ("7", 80)]))));
        assert_eq!(check(&[("9", 100)], &[], Some("9")), Ok(Some(split(&[("9", 100)]))));
        assert_eq!(check(&[], &["7"], Some("9")), Ok(None));
        assert!(check(&[("0", 100)], &["7"], None).unwrap_err().contains("no deployed model"));
        assert!(check(&[("0", 50), ("9", 50)], &[], Some("9")).unwrap_err().contains("twice"));
    }

    #[test]
    fn percents_add_up_over_models_that_exist() {
        assert!(check(&[("7", 99)], &["7"], None).unwrap_err().contains("adds up to 99"));
        assert!(check(&[("7", 150), ("8", -50)], &["7", "8"], None).unwrap_err().contains("must be 0 to 100"));
        assert!(check(&[("6", 100)], &["7"], None).unwrap_err().contains("`6`"));
        assert_eq!(check(&[("7", 100), ("8", 0)], &["7", "8"], None), Ok(Some(split(&[("7", 100), ("8", 0)]))));
    }

    #[test]
    fn undeploying_needs_the_traffic_gone() {
        let both = split(&[("7", 80), ("8", 20)]);
        assert!(without(&both, "7", None, false).unwrap_err().message.contains("still gets traffic"));
        assert_eq!(without(&both, "7", Some(split(&[("8", 100)])), false), Ok(split(&[("8", 100)])));
        assert_eq!(without(&split(&[("7", 0), ("8", 100)]), "7", None, false), Ok(split(&[("8", 100)])));
        assert_eq!(without(&split(&[("8", 100)]), "7", None, false), Ok(split(&[("8", 100)])));
        assert_eq!(without(&split(&[("7", 100)]), "7", None, true), Ok(Split::new()));
    }
}
