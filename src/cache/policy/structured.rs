//! Dictionaries of structured fields (RFC 9651, section 4.2.2), as far as a cache needs them.

/// The value of a dictionary member; what follows it as parameters is checked and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Integer(i64),
    Decimal,
    String(String),
    Token(String),
    Bytes,
    Boolean(bool),
    Date,
    DisplayString,
    InnerList(Vec<Item>),
}

/// The members in order, the last value of each key; `None` when anything at all is malformed.
pub(crate) fn dictionary(value: &[u8]) -> Option<Vec<(String, Item)>> {
    let mut input = Input { rest: value };
    let mut members: Vec<(String, Item)> = Vec::new();
    input.spaces();
    while !input.rest.is_empty() {
        let key = input.key()?;
        let item = if input.take(b'=') { input.item_or_list()? } else { Item::Boolean(true) };
        input.parameters()?;
        members.retain(|(known, _)| *known != key);
        members.push((key, item));
        input.optional_white_space();
        if input.rest.is_empty() {
            return Some(members);
        }
        if !input.take(b',') {
            return None;
        }
        input.optional_white_space();
        if input.rest.is_empty() {
            return None;
        }
    }
    Some(members)
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !accept(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn spaces(&mut self) {
        self.take_while(|byte| byte == b' ');
    }

    fn optional_white_space(&mut self) {
        self.take_while(|byte| byte == b' ' || byte == b'\t');
    }

    fn key(&mut self) -> Option<String> {
        let first = self.peek()?;
        if !first.is_ascii_lowercase() && first != b'*' {
            return None;
        }
        let key = self.take_while(|byte| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || matches!(byte, b'_' | b'-' | b'.' | b'*')
        });
        Some(String::from_utf8_lossy(key).into_owned())
    }

    fn item_or_list(&mut self) -> Option<Item> {
        if !self.take(b'(') {
            return self.item();
        }
        let mut items = Vec::new();
        loop {
            self.spaces();
            if self.take(b')') {
                return Some(Item::InnerList(items));
            }
            items.push(self.item()?);
            self.parameters()?;
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.spaces();
            self.key()?;
            if self.take(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<Item> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string().map(Item::String),
            b':' => self.bytes(),
            b'?' => self.boolean(),
            b'@' => {
                self.take(b'@');
                matches!(self.number()?, Item::Integer(_)).then_some(Item::Date)
            }
            b'%' => {
                self.take(b'%');
                self.string().map(|_| Item::DisplayString)
            }
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                let token = self.take_while(|byte| {
                    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
                });
                Some(Item::Token(String::from_utf8_lossy(token).into_owned()))
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Item> {
        let negative = self.take(b'-');
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            return None;
        }
        if self.take(b'.') {
            let fraction = self.take_while(|byte| byte.is_ascii_digit());
            return (digits.len() <= 12 && (1..=3).contains(&fraction.len()))
                .then_some(Item::Decimal);
        }
        if digits.len() > 15 {
            return None;
        }
        let number = digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Some(Item::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<String> {
        if !self.take(b'"') {
            return None;
        }
        let mut text = String::new();
        loop {
            let byte = self.peek()?;
            self.rest = &self.rest[1..];
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let escaped = self.peek().filter(|byte| matches!(byte, b'"' | b'\\'))?;
                    self.rest = &self.rest[1..];
                    text.push(char::from(escaped));
                }
                0x20..=0x7e => text.push(char::from(byte)),
                _ => return None,
            }
        }
    }

    fn bytes(&mut self) -> Option<Item> {
        self.take(b':');
        self.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
        self.take(b':').then_some(Item::Bytes)
    }

    fn boolean(&mut self) -> Option<Item> {
        self.take(b'?');
        match self.peek()? {
            b'0' => {
                self.take(b'0');
                Some(Item::Boolean(false))
            }
            b'1' => {
                self.take(b'1');
                Some(Item::Boolean(true))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries() {
        // RFC 9651, sections 3.2 and 4.2.2.
        let token = |text: &str| Item::Token(text.to_owned());
        let string = |text: &str| Item::String(text.to_owned());
        let yes = Item::Boolean(true);
        type Members = Vec<(&'static str, Item)>;
        let table: Vec<(&str, Option<Members>)> = vec![
            ("", Some(vec![])),
            ("   ", Some(vec![])),
            ("max-age=10", Some(vec![("max-age", Item::Integer(10))])),
            ("max-age=-1", Some(vec![("max-age", Item::Integer(-1))])),
            (
                " a , b=?0\t,c=t ",
                Some(vec![("a", yes.clone()), ("b", Item::Boolean(false)), ("c", token("t"))]),
            ),
            ("a=1, a=2", Some(vec![("a", Item::Integer(2))])),
            ("a=1;x;y=\"q\", b", Some(vec![("a", Item::Integer(1)), ("b", yes.clone())])),
            ("a;x=1", Some(vec![("a", yes.clone())])),
            ("a=\"x\\\"y\"", Some(vec![("a", string("x\"y"))])),
            (
                "a=(1 \"x\";p  t)",
                Some(vec![("a", Item::InnerList(vec![Item::Integer(1), string("x"), token("t")]))]),
            ),
            ("a=()", Some(vec![("a", Item::InnerList(vec![]))])),
            ("a=1.5", Some(vec![("a", Item::Decimal)])),
            ("a=:aGk=:", Some(vec![("a", Item::Bytes)])),
            ("a=@1659578233", Some(vec![("a", Item::Date)])),
            ("a=%\"x\"", Some(vec![("a", Item::DisplayString)])),
            ("max-age=10,", None),
            ("max-age=10, &&&&&", None),
            (",a", None),
            ("a b", None),
            ("a =1", None),
            ("a= 1", None),
            ("MaX-aGe=1", None),
            ("1=a", None),
            ("a=1234567890123456", None),
            ("a=1.", None),
            ("a=1.2345", None),
            ("a=-", None),
            ("a=\"x", None),
            ("a=\"\\x\"", None),
            ("a=\"\u{e9}\"", None),
            ("a=?2", None),
            ("a=(1", None),
            ("a=(1\"x\")", None),
            ("a=:x", None),
            ("a;X=1", None),
            ("a=1; ;", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|members| {
                members.into_iter().map(|(key, item)| (key.to_owned(), item)).collect::<Vec<_>>()
            });
            assert_eq!(dictionary(text.as_bytes()), expected, "{text:?}");
        }
    }
}
