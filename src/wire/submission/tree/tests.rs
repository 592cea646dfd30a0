use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::*;

/// Whether `serde_json` takes `text`.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The same value as `serde_json` reads it, put together from the places.
fn put_together(json: Json<'_>) -> serde_json::Value {
    if let Some(elements) = json.elements() {
        return elements.map(put_together).collect();
    }
    if let Some(members) = json.members() {
        let text = |key: Json<'_>| key.string().unwrap().unwrap().into_owned();
        return serde_json::Value::Object(
            members.map(|(key, value)| (text(key), put_together(value))).collect(),
        );
    }
    match json.string() {
        Some(text) => text.unwrap().into(),
        None => serde_json::from_str(json.get()).unwrap(),
    }
}

#[test]
fn every_value_stands_where_it_was_read() {
    let text = " {\"a\" : [1 , -0.5e+3,\"\\u00e4\\\"\", {} ,[ ], [[true]]],\"\":\"\",\"b\\n\":{\"c\":null,\"ä\":false}}\r\n";
    let tree = Tree::read(text).unwrap();
    assert_eq!(put_together(tree.root()), serde_json::from_str::<serde_json::Value>(text).unwrap());
    let (key, list) = tree.root().members().unwrap().next().unwrap();
    assert_eq!((key.get(), key.string().unwrap().unwrap()), ("\"a\"", Cow::Borrowed("a")));
    let texts: Vec<_> = list.elements().unwrap().map(Json::get).collect();
    assert_eq!(texts, ["1", "-0.5e+3", "\"\\u00e4\\\"\"", "{}", "[ ]", "[[true]]"]);
    assert!(list.members().is_none() && list.string().is_none() && !list.is_null());
}

#[test]
fn what_is_no_json_is_no_tree() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "truefalse",
        "1 2",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "+1",
        "--1",
        "NaN",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u00g0\"",
        "\"\\u00\"",
        "\"\t\"",
        "\"\0\"",
        "{",
        "[",
        "{]",
        "[}",
        "[1,]",
        "{,}",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "[1}",
        "{\"a\":1]",
        "\u{feff}1",
        "1\u{a0}",
        "[1 2]",
        "'a'",
        "{\"a\" 1}",
        "//",
        "]",
        "}",
        ",",
        ":",
    ] {
        assert!(Tree::read(text).is_none() && !is_json(text), "{text:?}");
    }
    for text in
        ["0", "-0", "1e400", "-12.5E-7", "\"\\ud800\"", "\"\u{7f}\"", " [ ] ", "null", "\"\\/\\b\\f\""]
    {
        assert!(Tree::read(text).is_some() && is_json(text), "{text:?}");
    }
}

#[test]
fn what_is_remarkable_is_found_at_every_place_of_a_string() {
    for length in 0..FIRST + 2 * WIDE + 9 {
        for filling in [b'x', 0x20, 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
            let mut bytes = vec![filling; length];
            assert_eq!(unremarkable(&bytes), length);
            for at in 0..length {
                for odd in [0, 1, 0x1f, b'"', b'\\'] {
                    bytes[at] = odd;
                    assert_eq!(unremarkable(&bytes), at, "{odd} at {at} of {length}");
                    // What comes behind it changes nothing.
                    if at + 1 < length {
                        for behind in [0, b'"', filling] {
                            bytes[at + 1] = behind;
                            assert_eq!(unremarkable(&bytes), at, "{odd} at {at} of {length}, then {behind}");
                        }
                    }
                }
                bytes[at] = filling;
            }
        }
    }
}

#[test]
fn a_string_goes_on_behind_an_escape() {
    for before in 0..FIRST + WIDE {
        let (before, after) = ("x".repeat(before), "ä".repeat(FIRST));
        for (behind, sound) in
            [("", true), ("\\u00e4", true), ("\u{1f}", false), ("\\x", false), ("\"", false)]
        {
            let text = format!("\"{before}\\n{after}{behind}{before}\"");
            assert_eq!(Tree::read(&text).is_some(), sound, "{text:?}");
            assert_eq!(is_json(&text), sound, "{text:?}");
        }
    }
}

#[test]
fn a_text_may_nest_so_deep_and_no_deeper() {
    let nested = |depth: usize| format!("{}1{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2));
    assert!(Tree::read(&nested(MAX_DEPTH)).is_some());
    assert!(Tree::read(&nested(MAX_DEPTH + 2)).is_none());
    assert!(Tree::read(&format!("[{}]", nested(MAX_DEPTH))).is_none());
    assert!(Tree::read(&"[".repeat(1 << 20)).is_none());
}

proptest! {
    #[test]
    fn a_tree_is_read_where_serde_json_reads_a_value(
        text in "([\\[\\]{},: \\n\"\\\\]|\"a\":|\"\\\\u00e[0-9]\"|-?[0-9]{1,2}(\\.[0-9])?(e[+-]?[0-9])?|null|true|\"ä[ -~]{0,70}\"){0,12}",
    ) {
        prop_assert_eq!(Tree::read(&text).is_some(), is_json(&text), "{}", text);
    }

    #[test]
    fn a_sound_value_that_lost_or_won_a_byte_is_read_where_serde_json_reads_it(
        numbers in proptest::collection::vec(any::<f64>(), 0..3),
        texts in proptest::collection::vec(any::<String>(), 0..4),
        at in any::<proptest::sample::Index>(),
        byte in proptest::char::range('\0', '\u{7f}'),
    ) {
        let named: serde_json::Map<_, _> =
            texts.iter().map(|text| (text.clone(), serde_json::json!([text, null, numbers]))).collect();
        let value = serde_json::Value::Object(named);
        let text = value.to_string();
        let tree = Tree::read(&text).expect("it is sound");
        // Not `value` itself: what `serde_json` writes of a number, it may read as its neighbour.
        prop_assert_eq!(put_together(tree.root()), serde_json::from_str::<serde_json::Value>(&text).expect("it is sound"));

        let at = (0..text.len() + 1).filter(|at| text.is_char_boundary(*at)).nth(at.index(text.chars().count() + 1)).unwrap();
        let mut more = text.clone();
        more.insert(at, byte);
        prop_assert_eq!(Tree::read(&more).is_some(), is_json(&more), "{}", more);
        let mut less = text.clone();
        if at < less.len() {
            less.remove(at);
        }
        prop_assert_eq!(Tree::read(&less).is_some(), is_json(&less), "{}", less);
    }
}
