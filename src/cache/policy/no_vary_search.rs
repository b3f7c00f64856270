//! `No-Vary-Search`: which parts of a query do not change the response (HTTP working group draft).

use http::HeaderMap;

use super::structured::{Item, dictionary};

/// Which parameters of a query tell responses apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoVarySearch {
    key_order: bool,
    parameters: Parameters,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Parameters {
    /// All matter.
    All,
    /// All but these.
    Without(Vec<String>),
    /// None but these.
    Only(Vec<String>),
}

impl NoVarySearch {
    /// `None` where the field is absent, malformed, or takes nothing back.
    pub(crate) fn parse(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all("no-vary-search").iter();
        let mut value = lines.next()?.as_bytes().to_vec();
        for line in lines {
            value.extend_from_slice(b", ");
            value.extend_from_slice(line.as_bytes());
        }
        let members = dictionary(&value)?;
        let find = |key: &str| members.iter().find(|(known, _)| known == key).map(|(_, item)| item);
        let key_order = match find("key-order") {
            None => false,
            Some(Item::Boolean(set)) => *set,
            Some(_) => return None,
        };
        let parameters = match (find("params"), find("except")) {
            (None | Some(Item::Boolean(false)), None) => Parameters::All,
            (Some(Item::InnerList(names)), None) => Parameters::Without(strings(names)?),
            (Some(Item::Boolean(true)), None) => Parameters::Only(Vec::new()),
            (Some(Item::Boolean(true)), Some(Item::InnerList(names))) => {
                Parameters::Only(strings(names)?)
            }
            _ => return None,
        };
        (key_order || parameters != Parameters::All).then_some(Self { key_order, parameters })
    }

    /// A form of the query that is equal for all queries that get the same response.
    pub(crate) fn canonical(&self, query: &str) -> String {
        let mut pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                (decoded(name), decoded(value))
            })
            .filter(|(name, _)| match &self.parameters {
                Parameters::All => true,
                Parameters::Without(names) => !names.contains(name),
                Parameters::Only(names) => names.contains(name),
            })
            .collect();
        if self.key_order {
            // Stable: the order of equal names matters.
            pairs.sort_by(|left, right| left.0.cmp(&right.0));
        }
        let mut canonical = String::new();
        for (name, value) in pairs {
            for part in [name, value] {
                canonical.push_str(&part.len().to_string());
                canonical.push(':');
                canonical.push_str(&part);
            }
        }
        canonical
    }
}

fn strings(items: &[Item]) -> Option<Vec<String>> {
    items
        .iter()
        .map(|item| match item {
            Item::String(text) => Some(decoded(text)),
            _ => None,
        })
        .collect()
}

/// As a form is decoded: `+` is a space, `%xx` a byte.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = |at: usize| char::from(*tail.get(at)?).to_digit(16);
                match (hex(0), hex(1)) {
                    (Some(high), Some(low)) => {
                        bytes.push((high * 16 + low) as u8);
                        rest = &tail[2..];
                    }
                    _ => bytes.push(b'%'),
                }
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: &str) -> Option<NoVarySearch> {
        let mut headers = HeaderMap::new();
        headers.insert("no-vary-search", value.parse().unwrap());
        NoVarySearch::parse(&headers)
    }

    #[test]
    fn queries_are_compared_as_the_field_says() {
        let table = [
            ("key-order", "a=1&b=2", "b=2&a=1", true),
            ("key-order", "a=1&a=2", "a=2&a=1", false),
            ("key-order", "a=1", "a=2", false),
            ("params=(\"utm\")", "a=1&utm=x", "a=1", true),
            ("params=(\"utm\")", "a=1&utm=x", "utm=y&a=1", true),
            ("params=(\"utm\")", "a=1&b=2", "b=2&a=1", false),
            ("params", "a=1", "b=2", true),
            ("params, except=(\"id\")", "id=1&x=2", "id=1&y=3", true),
            ("params, except=(\"id\")", "id=1", "id=2", false),
            ("params, except=(\"id\")", "id=1&id=2", "id=2&id=1", false),
            ("key-order", "a=%31", "a=1", true),
            ("key-order", "a=x+y", "a=x%20y", true),
            ("key-order", "a=%zz", "a=%25zz", true),
            ("key-order", "a", "a=", true),
            ("key-order", "ab=c", "a=bc", false),
            ("key-order", "a=1&&b=2", "b=2&a=1", true),
        ];
        for (field, left, right, expected) in table {
            let rule = rule(field).unwrap();
            let same = rule.canonical(left) == rule.canonical(right);
            assert_eq!(same, expected, "{field}: {left} and {right}");
        }
    }

    #[test]
    fn a_malformed_field_takes_nothing_back() {
        for field in [
            "",
            "params=?0",
            "key-order=?0",
            "key-order=1",
            "params=(1)",
            "params=\"a\"",
            "except=(\"a\")",
            "params=(\"a\"), except=(\"b\")",
            "params, except=\"a\"",
            "key-order,",
        ] {
            assert_eq!(rule(field), None, "{field:?}");
        }
    }
}
