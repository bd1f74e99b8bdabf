use serde_json::json;

use super::*;

fn parsed(text: &str) -> Result<PredictRequest, RequestError> {
    parse(&Bytes::copy_from_slice(text.as_bytes()), 3)
}

fn rows(text: &str) -> Vec<String> {
    parsed(text).unwrap().rows.iter().map(|row| String::from_utf8(row.to_vec()).unwrap()).collect()
}

fn refusal(text: &str) -> (Option<String>, String) {
    let error = parsed(text).unwrap_err();
    (error.field().map(str::to_owned), error.to_string())
}

#[test]
fn rows_are_slices_of_the_body() {
    let request = parsed(r#"{"signature_name":"serving_default","instances":[[1, 2],{"b64":"AA=="}],"x":0}"#).unwrap();
    assert_eq!(request.form, Form::Rows);
    assert_eq!(request.rows, ["[1, 2]", r#"{"b64":"AA=="}"#]);
    assert_eq!(parsed(r#"{"instances":[1],"parameters":null}"#).unwrap().parameters, None);
}

#[test]
fn columns_become_rows() {
    assert_eq!(rows(r#"{"inputs":[[1,2],[3,4]]}"#), ["[1,2]", "[3,4]"]);
    assert_eq!(parsed(r#"{"inputs":[1]}"#).unwrap().form, Form::Columns { named: false });
    assert_eq!(rows(r#"{"inputs":{"x":[1,2],"y \"":[[3],[4]]}}"#), [r#"{"x":1,"y \"":[3]}"#, r#"{"x":2,"y \"":[4]}"#]);
    assert_eq!(parsed(r#"{"inputs":{"x":[1]}}"#).unwrap().form, Form::Columns { named: true });
}

#[test]
fn what_is_no_request_is_named() {
    for (text, field, words) in [
        ("", None, "no body"),
        ("[]", Some("instances"), "empty"),
        ("7", None, "a number"),
        ("{}", None, "`instances` or `inputs` is missing"),
        (r#"{"instances":[1],"inputs":[1]}"#, None, "beside each other"),
        (r#"{"instances":5}"#, Some("instances"), "a number"),
        (r#"{"instances":[]}"#, Some("instances"), "empty"),
        (r#"{"instances":[1,2,3,4]}"#, Some("instances"), "more than 3"),
        (r#"{"instances":[1],"signature_name":"other"}"#, Some("signature_name"), "\"other\""),
        (r#"{"inputs":7}"#, Some("inputs"), "a number"),
        (r#"{"inputs":{}}"#, Some("inputs"), "at least one input"),
        (r#"{"inputs":[]}"#, Some("inputs"), "at least one row"),
        (r#"{"inputs":[1,2,3,4]}"#, Some("inputs"), "more than 3 rows"),
        (r#"{"inputs":{"x":1}}"#, Some("inputs.x"), "a list, whose first axis"),
        (r#"{"inputs":{"x":[1],"y":[1,2]}}"#, Some("inputs.y"), "has 2 rows, and `inputs.x` 1"),
        (r#"{"instances":[1],"instances":[1]}"#, Some("instances"), "twice"),
    ] {
        let (found, message) = refusal(text);
        assert_eq!(found.as_deref(), field, "{text}: {message}");
        assert!(message.contains(words), "{text}: {message}");
    }
}

#[test]
fn tokens_that_json_does_not_have() {
    assert_eq!(
        rows(r#"{"instances":[NaN,[-Infinity, Infinity],"NaN \" NaN"]}"#),
        [r#""NaN""#, r#"["-Infinity", "Infinity"]"#, r#""NaN \" NaN""#]
    );
    assert!(refusal(r#"{"instances":[nan]}"#).1.contains("not valid JSON"));
    assert!(refusal(r#"{"instances":[NaN}"#).1.contains("not valid JSON"));
    struct Bytes;
    impl Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(b"-Infinity")
        }
    }
    assert_eq!(to_json(&Predictions { predictions: [Bytes] }).unwrap(), br#"{"predictions":[-Infinity]}"#);
}

#[test]
fn the_context_is_part_of_each_example() {
    let body = Bytes::from(r#"{"context":{"a":1,"b":NaN},"examples":[{"a":2},{}]}"#);
    let request = parse_examples(&body, 2).unwrap();
    let examples: Vec<Value> = request.examples.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
    assert_eq!(json!(examples), json!([{"a": 2, "b": "NaN"}, {"a": 1, "b": "NaN"}]));
    for (text, words) in
        [("", "no body"), ("{}", "examples"), (r#"{"examples":[]}"#, "empty"), (r#"{"examples":[1]}"#, "map")]
    {
        let error = parse_examples(&Bytes::from(text), 2).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}
