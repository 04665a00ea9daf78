//! What `lvs-node` prints with `--json` is what docs/lvs-node.schema.json says: no field is
//! missing, and none is there that it does not name.

use std::fs;

use serde_json::Value;

/// As much of JSON Schema as that file uses.
struct Schema(Value);

impl Schema {
    fn read() -> Schema {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lvs-node.schema.json");
        Schema(serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
    }

    /// What is wrong with `value`, found at `place`.
    fn faults(&self, schema: &Value, value: &Value, place: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (word, rule) in schema.as_object().unwrap() {
            match word.as_str() {
                "$schema" | "$defs" | "title" | "description" => {}
                "$ref" => {
                    let target = rule.as_str().unwrap().strip_prefix('#').unwrap();
                    faults.extend(self.faults(self.0.pointer(target).unwrap(), value, place));
                }
                "anyOf" => {
                    let branches = rule.as_array().unwrap().iter();
                    let all: Vec<Vec<String>> = branches.map(|branch| self.faults(branch, value, place)).collect();
                    if all.iter().all(|faults| !faults.is_empty()) {
                        // Of the branch that fits best.
                        faults.extend(all.into_iter().min_by_key(Vec::len).unwrap());
                    }
                }
                "const" if rule != value => faults.push(format!("{place} is {value}, not {rule}")),
                "enum" if !rule.as_array().unwrap().contains(value) => {
                    faults.push(format!("{place} is {value}, none of {rule}"));
                }
                "const" | "enum" => {}
                "type" => {
                    let names = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                    if !names.iter().any(|name| is_a(name.as_str().unwrap(), value)) {
                        faults.push(format!("{place} is {value}, no {rule}"));
                    }
                }
                "required" if value.is_object() => {
                    let names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                    let missing = names.filter(|name| value.get(name).is_none());
                    faults.extend(missing.map(|name| format!("{place} has no {name}")));
                }
                "properties" | "additionalProperties" | "required" => {}
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        faults.extend(self.faults(rule, item, &format!("{place}[{index}]")));
                    }
                }
                "maxItems" if value.as_array().is_some_and(|list| list.len() as u64 > rule.as_u64().unwrap()) => {
                    faults.push(format!("{place} has more than {rule} items"));
                }
                "maxItems" => {}
                word => panic!("{word} in the schema is not known here"),
            }
        }
        if let (Some(properties), Some(object)) = (schema.get("properties"), value.as_object()) {
            for (name, field) in object {
                match properties.get(name) {
                    Some(schema) => faults.extend(self.faults(schema, field, &format!("{place}.{name}"))),
                    None => faults.push(format!("{place}.{name} is not described")),
                }
            }
        }
        faults
    }
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        name => panic!("{name} is no type"),
    }
}

/// Reads lines of output, and judges each.
pub fn objects(text: &str) -> Vec<Value> {
    let schema = Schema::read();
    let read = |line: &str| {
        let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let faults = schema.faults(&schema.0, &value, "");
        assert!(faults.is_empty(), "{}\n{line}", faults.join("\n"));
        value
    };
    text.lines().map(read).collect()
}

#[test]
fn faults_are_found() {
    let good = r#"{"version":1,"command":"man","exit_code":0,"error":null,"notes":[],"warnings":[],"groups":[]}"#;
    assert_eq!(objects(good).len(), 1);
    let schema = Schema::read();
    for (from, to, fault) in [
        (":1,", ":2,", ".version is 2, not 1"),
        ("\"man\"", "\"woman\"", "none of"),
        ("\"notes\":[],", "", " has no notes"),
        ("\"notes\":[]", "\"notes\":[7]", ".notes[0] is 7, no \"string\""),
        ("\"notes\"", "\"more\":1,\"notes\"", ".more is not described"),
        ("null", "{\"txt\":\"\"}", ".error.txt is not described"),
    ] {
        let value = serde_json::from_str(&good.replacen(from, to, 1)).unwrap();
        let faults = schema.faults(&schema.0, &value, "").join("\n");
        assert!(faults.contains(fault), "{faults}");
    }
}
