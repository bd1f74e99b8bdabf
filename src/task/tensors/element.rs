//! Between a JSON scalar and one element of a tensor, for each element type.
//!
//! Nothing is changed silently: an integer must be whole and in range (`1.0` is 1, because the API's JSON knows only
//! doubles), a float may be rounded but not overflow. What JSON can't write as a number is a string: `"NaN"`,
//! `"Infinity"`, `"-Infinity"`, in both directions.

use half::f16;
use serde::ser::{SerializeMap, Serializer};

use super::super::base64;

/// A JSON number, as exactly as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Negative(i64),
    Real(f64),
}

/// Why a scalar is no element.
#[derive(Debug)]
pub(super) enum Misfit {
    /// Another kind of scalar is wanted.
    Kind,
    /// The right kind, but not this value; the rest of a sentence.
    Value(String),
}

/// The most characters of a client's own text that a message repeats.
const ECHO: usize = 40;

pub(super) fn clipped(text: &str) -> String {
    text.chars().take(ECHO).collect()
}

/// A type that a tensor can hold. The methods of the kinds that a type doesn't take are left as they are.
pub(super) trait Element: Sized {
    /// What is to be sent, to follow "must be".
    const WANTED: &'static str;
    /// Whether `{"b64": ...}` stands for a whole list of elements, its bytes, and not for one.
    const IS_BYTE: bool = false;

    fn from_number(_: Number) -> Result<Self, Misfit> {
        Err(Misfit::Kind)
    }
    fn from_bool(_: bool) -> Result<Self, Misfit> {
        Err(Misfit::Kind)
    }
    fn from_text(_: &str) -> Result<Self, Misfit> {
        Err(Misfit::Kind)
    }
    fn from_bytes(_: &[u8]) -> Result<Self, Misfit> {
        Err(Misfit::Kind)
    }
    /// One element of a list of bytes.
    fn from_byte(_: u8) -> Option<Self> {
        None
    }
    /// Writes the element.
    fn write<S: Serializer>(&self, serializer: S, style: Style) -> Result<S::Ok, S::Error>;
}

/// How elements are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Text is written as `{"b64": ...}`.
    pub(super) as_bytes: bool,
    /// What is no JSON number.
    pub(super) non_finite: NonFinite,
}

/// How NaN and infinities are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// As the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
    #[default]
    Text,
    /// As byte strings of these names, which a serialiser may write as tokens.
    Bytes,
}

macro_rules! integers {
    ($($integer:ident $write:ident $wanted:literal)*) => {$(
        impl Element for $integer {
            const WANTED: &'static str = $wanted;
            const IS_BYTE: bool = size_of::<$integer>() == 1 && $integer::MIN == 0;

            fn from_number(number: Number) -> Result<Self, Misfit> {
                let (value, text) = match number {
                    Number::Whole(value) => (Self::try_from(value).ok(), value.to_string()),
                    Number::Negative(value) => (Self::try_from(value).ok(), value.to_string()),
                    Number::Real(value) if value.fract() != 0.0 => {
                        return Err(Misfit::Value(format!("is {value}; it must be {}", Self::WANTED)));
                    }
                    // Beyond i128 the conversion saturates, at a value that no element has.
                    Number::Real(value) => (Self::try_from(value as i128).ok(), value.to_string()),
                };
                value.ok_or_else(|| {
                    Misfit::Value(format!("is {text}; it must be {} from {} to {}", Self::WANTED, Self::MIN, Self::MAX))
                })
            }

            fn from_byte(byte: u8) -> Option<Self> {
                Self::try_from(byte).ok()
            }

            fn write<S: Serializer>(&self, serializer: S, _: Style) -> Result<S::Ok, S::Error> {
                serializer.$write(*self)
            }
        }
    )*};
}

integers! {
    i8 serialize_i8 "a whole number"
    i16 serialize_i16 "a whole number"
    i32 serialize_i32 "a whole number"
    i64 serialize_i64 "a whole number"
    u8 serialize_u8 "a whole number"
    u16 serialize_u16 "a whole number"
    u32 serialize_u32 "a whole number"
    u64 serialize_u64 "a whole number"
}

/// The name of a value that is no JSON number; `None` for all others.
fn non_finite(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn named_float(text: &str) -> Result<f64, Misfit> {
    match text {
        "NaN" => Ok(f64::NAN),
        "Infinity" => Ok(f64::INFINITY),
        "-Infinity" => Ok(f64::NEG_INFINITY),
        other => Err(Misfit::Value(format!(
            "is the string {:?}; it must be a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
            clipped(other)
        ))),
    }
}

macro_rules! floats {
    ($($float:ident $name:literal $narrow:expr, $widen:expr, $write:ident;)*) => {$(
        impl Element for $float {
            const WANTED: &'static str = "a number";

            fn from_number(number: Number) -> Result<Self, Misfit> {
                let narrow: fn(f64) -> $float = $narrow;
                let wide = match number {
                    Number::Whole(value) => value as f64,
                    Number::Negative(value) => value as f64,
                    Number::Real(value) => value,
                };
                let value = narrow(wide);
                if value.is_finite() {
                    return Ok(value);
                }
                Err(Misfit::Value(format!("is {wide:e}, which is beyond the range of {}", $name)))
            }

            fn from_text(text: &str) -> Result<Self, Misfit> {
                let narrow: fn(f64) -> $float = $narrow;
                named_float(text).map(narrow)
            }

            fn write<S: Serializer>(&self, serializer: S, style: Style) -> Result<S::Ok, S::Error> {
                match non_finite(f64::from(*self)) {
                    Some(name) if style.non_finite == NonFinite::Bytes => serializer.serialize_bytes(name.as_bytes()),
                    Some(name) => serializer.serialize_str(name),
                    None => serializer.$write($widen(*self)),
                }
            }
        }
    )*};
}

floats! {
    f16 "float16" f16::from_f64, f32::from, serialize_f32;
    // Written as float32, so that 0.1 comes back as 0.1 and not with the digits of a double.
    f32 "float32" |wide| wide as f32, f32::from, serialize_f32;
    f64 "float64" |wide| wide, f64::from, serialize_f64;
}

impl Element for bool {
    const WANTED: &'static str = "true or false";

    fn from_bool(value: bool) -> Result<Self, Misfit> {
        Ok(value)
    }

    fn write<S: Serializer>(&self, serializer: S, _: Style) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*self)
    }
}

impl Element for String {
    const WANTED: &'static str = "a string or {\"b64\": ...}";

    fn from_text(text: &str) -> Result<Self, Misfit> {
        if text.contains('\0') {
            return Err(Misfit::Value("has a NUL character (U+0000), which the model can't be given".to_owned()));
        }
        Ok(text.to_owned())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Misfit> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::from_text(text),
            Err(_) => Err(Misfit::Value("is not UTF-8, and ONNX's strings are".to_owned())),
        }
    }

    fn write<S: Serializer>(&self, serializer: S, style: Style) -> Result<S::Ok, S::Error> {
        if !style.as_bytes {
            return serializer.serialize_str(self);
        }
        let mut object = serializer.serialize_map(Some(1))?;
        object.serialize_entry("b64", &base64::encode(self.as_bytes()))?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: Element>(number: Number) -> String {
        match T::from_number(number) {
            Err(Misfit::Value(message)) => message,
            Err(Misfit::Kind) => "kind".to_owned(),
            Ok(_) => "ok".to_owned(),
        }
    }

    #[test]
    fn integers_are_exact_and_in_range() {
        assert_eq!(i64::from_number(Number::Whole(9_007_199_254_740_993)).ok(), Some(9_007_199_254_740_993));
        assert_eq!(i32::from_number(Number::Real(1.0)).ok(), Some(1));
        assert_eq!(u64::from_number(Number::Whole(u64::MAX)).ok(), Some(u64::MAX));
        assert_eq!(u8::from_number(Number::Real(-0.0)).ok(), Some(0));
        assert_eq!(message::<i32>(Number::Real(1.5)), "is 1.5; it must be a whole number");
        assert_eq!(message::<u8>(Number::Whole(256)), "is 256; it must be a whole number from 0 to 255");
        assert_eq!(message::<i8>(Number::Negative(-129)), "is -129; it must be a whole number from -128 to 127");
        for beyond in [1e19, -1e300, 1e300] {
            assert!(message::<i64>(Number::Real(beyond)).contains("from -9223372036854775808"), "{beyond}");
        }
    }

    #[test]
    fn floats_may_be_rounded_but_not_overflow() {
        assert_eq!(f32::from_number(Number::Real(0.1)).ok(), Some(0.1));
        assert_eq!(f32::from_number(Number::Whole(16_777_217)).ok(), Some(16_777_216.0));
        assert!(message::<f32>(Number::Real(1e39)).contains("beyond the range of float32"));
        assert!(message::<f16>(Number::Real(65_520.0)).contains("beyond the range of float16"));
        assert_eq!(f64::from_number(Number::Real(1e39)).ok(), Some(1e39));
    }

    #[test]
    fn what_is_no_json_number_has_a_name() {
        assert!(f32::from_text("NaN").is_ok_and(f32::is_nan));
        assert_eq!(f64::from_text("-Infinity").ok(), Some(f64::NEG_INFINITY));
        assert!(matches!(f32::from_text("nan"), Err(Misfit::Value(message)) if message.contains("\"nan\"")));
    }

    #[test]
    fn strings_are_what_the_runtime_can_hold() {
        assert_eq!(String::from_bytes("caf\u{e9}".as_bytes()).ok().as_deref(), Some("caf\u{e9}"));
        assert!(matches!(String::from_bytes(&[0xff]), Err(Misfit::Value(message)) if message.contains("UTF-8")));
        assert!(matches!(String::from_text("a\0"), Err(Misfit::Value(message)) if message.contains("NUL")));
    }
}
