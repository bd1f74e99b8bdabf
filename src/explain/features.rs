//! The features of an instance as JSON: the keys of an object, the elements of a list, or the value itself.

use serde_json::{Map, Value};

use super::shapley::Coalition;

/// How an instance divides into features.
#[derive(Debug, Clone, PartialEq)]
pub enum Features {
    /// An object: each key is a feature of its own.
    Keys(Map<String, Value>),
    /// A list, or an object with one list: each element is a feature; all of them have one name.
    Columns {
        /// The name under which they are explained.
        name: String,
        /// The key that the list stands under in the instance.
        key: Option<String>,
        /// The elements.
        values: Vec<Value>,
    },
    /// Anything else is one feature.
    Whole {
        /// Its name.
        name: String,
        /// The value.
        value: Value,
    },
}

impl Features {
    /// Divides an instance; `name` is for what has none of its own.
    pub fn of(instance: Value, name: &str) -> Self {
        match instance {
            Value::Object(mut entries) if entries.len() == 1 => {
                let only = entries.iter_mut().next().and_then(|(key, value)| match value {
                    Value::Array(values) if values.len() > 1 => Some((key.clone(), std::mem::take(values))),
                    _ => None,
                });
                match only {
                    Some((key, values)) => Self::Columns { name: key.clone(), key: Some(key), values },
                    None if entries.contains_key("b64") => {
                        Self::Whole { name: name.to_owned(), value: Value::Object(entries) }
                    }
                    None => Self::Keys(entries),
                }
            }
            Value::Object(entries) if !entries.is_empty() => Self::Keys(entries),
            Value::Array(values) if !values.is_empty() => Self::Columns { name: name.to_owned(), key: None, values },
            value => Self::Whole { name: name.to_owned(), value },
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Keys(entries) => entries.len(),
            Self::Columns { values, .. } => values.len(),
            Self::Whole { .. } => 1,
        }
    }

    /// The names that explanations and baselines have.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Keys(entries) => entries.keys().map(String::as_str).collect(),
            Self::Columns { name, .. } | Self::Whole { name, .. } => vec![name],
        }
    }

    /// The same features with the values of a baseline: those that `given` has for a name, else zeros.
    ///
    /// # Errors
    /// The name whose baseline isn't a list as long as the instance's.
    pub fn baseline<'a>(&self, given: impl Fn(&str) -> Option<&'a Value>) -> Result<Self, (String, String)> {
        let of = |name: &str, value: &Value| given(name).cloned().unwrap_or_else(|| zero(value));
        Ok(match self {
            Self::Keys(entries) => {
                Self::Keys(entries.iter().map(|(name, value)| (name.clone(), of(name, value))).collect())
            }
            Self::Whole { name, value } => Self::Whole { name: name.clone(), value: of(name, value) },
            Self::Columns { name, key, values } => {
                let values = match given(name) {
                    None => values.iter().map(zero).collect(),
                    Some(Value::Array(baseline)) if baseline.len() == values.len() => baseline.clone(),
                    // One value is that of every column.
                    Some(value @ (Value::Number(_) | Value::String(_) | Value::Bool(_))) => {
                        vec![value.clone(); values.len()]
                    }
                    Some(_) => {
                        let wanted = format!("must be a list of {}, as the instance's is, or one value", values.len());
                        return Err((name.clone(), wanted));
                    }
                };
                Self::Columns { name: name.clone(), key: key.clone(), values }
            }
        })
    }

    /// The instance.
    pub fn itself(&self) -> Value {
        match self {
            Self::Keys(entries) => Value::Object(entries.clone()),
            Self::Columns { key: Some(key), values, .. } => {
                Value::Object(Map::from_iter([(key.clone(), Value::Array(values.clone()))]))
            }
            Self::Columns { key: None, values, .. } => Value::Array(values.clone()),
            Self::Whole { value, .. } => value.clone(),
        }
    }

    /// The variant of the instance whose features outside of the coalition are the baseline's, which has the same ones.
    pub fn variant(&self, baseline: &Self, coalition: &Coalition) -> Value {
        match (self, baseline) {
            (Self::Keys(own), Self::Keys(others)) => {
                let choose = |(index, ((name, value), other)): (usize, ((&String, &Value), &Value))| {
                    (name.clone(), if coalition.contains(index) { value } else { other }.clone())
                };
                Value::Object(own.iter().zip(others.values()).enumerate().map(choose).collect())
            }
            (Self::Columns { key, values, .. }, Self::Columns { values: others, .. }) => {
                let choose = |(index, (value, other)): (usize, (&Value, &Value))| {
                    if coalition.contains(index) { value } else { other }.clone()
                };
                let list = Value::Array(values.iter().zip(others).enumerate().map(choose).collect());
                match key {
                    Some(key) => Value::Object(Map::from_iter([(key.clone(), list)])),
                    None => list,
                }
            }
            (Self::Whole { value, .. }, Self::Whole { value: other, .. }) => {
                if coalition.contains(0) { value } else { other }.clone()
            }
            // A baseline is made of the instance, and has its form.
            _ => Value::Null,
        }
    }

    /// The contributions under the features' names, in their form.
    pub fn named(&self, contributions: &[f64]) -> Value {
        let mut contributions = contributions.iter().copied();
        let mut entries = Map::new();
        match self {
            Self::Keys(features) => {
                entries.extend(features.keys().cloned().zip(contributions.map(Value::from)));
            }
            Self::Columns { name, .. } => {
                entries.insert(name.clone(), contributions.collect());
            }
            Self::Whole { name, .. } => {
                entries.insert(name.clone(), contributions.next().unwrap_or_default().into());
            }
        }
        Value::Object(entries)
    }
}

/// The zero of a value's form: 0, false, the empty string, and these inside of lists and objects.
fn zero(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => Value::Bool(false),
        Value::Number(_) => Value::from(0),
        // These are numbers too, of which JSON has none.
        Value::String(text) if matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity") => Value::from(0),
        Value::String(_) => Value::String(String::new()),
        Value::Array(values) => values.iter().map(zero).collect(),
        Value::Object(entries) => entries.iter().map(|(name, value)| (name.clone(), zero(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::shapley::Plan;
    use super::*;

    /// The variants of all coalitions, from the baseline to the instance.
    fn variants(instance: Value, given: &Value) -> Vec<Value> {
        let features = Features::of(instance, "x");
        let baseline = features.baseline(|name| given.get(name)).unwrap();
        let plan = Plan::new(features.count(), 50);
        plan.coalitions().iter().map(|coalition| features.variant(&baseline, coalition)).collect()
    }

    #[test]
    fn keys_columns_and_single_values() {
        assert_eq!(
            variants(json!({"age": 39, "city": "Oslo"}), &json!({})),
            [
                json!({"age": 0, "city": ""}),
                json!({"age": 39, "city": ""}),
                json!({"age": 0, "city": "Oslo"}),
                json!({"age": 39, "city": "Oslo"})
            ]
        );
        assert_eq!(variants(json!([1, 2]), &json!({})), [json!([0, 0]), json!([1, 0]), json!([0, 2]), json!([1, 2])]);
        assert_eq!(variants(json!({"x": [1, 2]}), &json!({"x": 9}))[1], json!({"x": [1, 9]}));
        assert_eq!(variants(json!("a"), &json!({"x": "b"})), [json!("b"), json!("a")]);
        assert_eq!(variants(json!({"b64": "QQ=="}), &json!({})), [json!({"b64": ""}), json!({"b64": "QQ=="})]);
        assert_eq!(
            variants(json!({"x": [[1, true], ["a", "NaN"]]}), &json!({}))[0],
            json!({"x": [[0, false], ["", 0]]})
        );
    }

    #[test]
    fn baselines_have_the_features_form() {
        assert_eq!(variants(json!([1, 2]), &json!({"x": [5, 6]}))[0], json!([5, 6]));
        let features = Features::of(json!([1, 2]), "x");
        let given = json!([1, 2, 3]);
        let (name, message) = features.baseline(|_| Some(&given)).unwrap_err();
        assert!(name == "x" && message.contains("a list of 2"), "{message}");
    }

    #[test]
    fn contributions_stand_under_their_names() {
        let named = |instance| Features::of(instance, "x").named(&[1.0, 2.0]);
        for instance in [json!({"b": 1, "a": 2}), json!([1, 2]), json!({"y": [1, 2]}), json!(1)] {
            assert_eq!(Features::of(instance.clone(), "x").itself(), instance);
        }
        assert_eq!(named(json!({"b": 1, "a": 2})), json!({"a": 1.0, "b": 2.0}));
        assert_eq!(named(json!([1, 2])), json!({"x": [1.0, 2.0]}));
        assert_eq!(named(json!({"y": [1, 2]})), json!({"y": [1.0, 2.0]}));
        assert_eq!(named(json!(1)), json!({"x": 1.0}));
    }
}
