//! Headers from a file: one `Name: value` a line, blank lines and `#` comments
//! between. The values are secrets: they are never printed, and are struck out
//! of whatever a server echoes.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Longer than any set of tokens; a file that grows without end must not fill the memory.
const MAX_FILE: u64 = 64 * 1024;

/// Shorter values are words that any text may hold.
const SHORTEST_SECRET: usize = 6;

/// What belongs to the transport; a file that set these would break requests apart.
const OURS: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "te",
    "upgrade",
    "user-agent",
];

/// What was read, and what could not be used of it.
#[derive(Debug, Default)]
pub(super) struct Headers {
    /// For every request; the values are marked as sensitive.
    pub(super) map: HeaderMap,
    /// One sentence for each bad line, with its number and without its value.
    pub(super) problems: Vec<String>,
}

impl Headers {
    /// Reads the file. `Err` says what to do.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let fail = |why: String| {
            format!(
                "cannot read `headers_file` {}: {why}; check the path and that sonde's user may read it",
                path.display()
            )
        };
        let about = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if !about.is_file() {
            return Err(fail("it is not a regular file".into()));
        }
        if about.len() > MAX_FILE {
            return Err(fail(format!("with {} bytes it is too long", about.len())));
        }
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8 text".into()))?;
        let mut headers = Self::default();
        headers.parse(&text);
        for problem in &mut headers.problems {
            *problem = format!("{}: {problem}", path.display());
        }
        Ok(headers)
    }

    fn parse(&mut self, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Err(why) = self.add(line) {
                self.problems.push(format!("line {}: {why}", index + 1));
            }
        }
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (name, value) = line
            .split_once(':')
            .ok_or("no colon; a line is `Name: value`")?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| "what stands before the colon is no header name")?;
        if OURS.contains(&name.as_str()) {
            return Err(format!("`{name}` is set by sonde itself"));
        }
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("the value of `{name}` has characters that no header may have"))?;
        value.set_sensitive(true);
        self.map.append(name, value);
        Ok(())
    }

    /// Strikes the values out of a text that came from outside.
    pub(super) fn strike_out(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for value in self.map.values().filter_map(|value| value.to_str().ok()) {
            // `Bearer TOKEN` may come back without its first word.
            let last_word = value.rsplit(' ').next().unwrap_or(value);
            for secret in [value, last_word] {
                if secret.len() >= SHORTEST_SECRET {
                    out = out.replace(secret, "***");
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Headers {
        let mut headers = Headers::default();
        headers.parse(text);
        headers
    }

    #[test]
    fn good_lines_become_sensitive_headers() {
        let headers =
            parsed("# token\n\nAuthorization:  Bearer abc:def \r\nX-Scope: a\nX-Scope: b\n");
        assert!(headers.problems.is_empty());
        let token = &headers.map["authorization"];
        assert_eq!(token, "Bearer abc:def");
        assert!(token.is_sensitive());
        assert_eq!(headers.map.get_all("x-scope").iter().count(), 2);
    }

    #[test]
    fn bad_lines_are_named_by_number_and_never_quoted() {
        let headers = parsed(
            "sekret-without-colon\nbad name: sekret\nX-A: sekret\u{1}\nHost: sekret\nX-B: fine-value\n",
        );
        assert_eq!(headers.problems.len(), 4);
        for (problem, line) in headers.problems.iter().zip(1..) {
            assert!(problem.starts_with(&format!("line {line}: ")), "{problem}");
            assert!(!problem.contains("sekret"), "{problem}");
        }
        assert_eq!(headers.map.len(), 1);
    }

    #[test]
    fn an_echoed_secret_is_struck_out() {
        let headers = parsed("Authorization: Bearer s3cr3t-token\n");
        assert_eq!(
            headers.strike_out("token s3cr3t-token in `Bearer s3cr3t-token` expired"),
            "token *** in `***` expired"
        );
    }

    #[test]
    fn a_file_that_is_missing_or_huge_or_a_folder_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Headers::read(&dir.path().join("no")).unwrap_err();
        assert!(missing.contains("headers_file") && missing.contains("check the path"));
        assert!(Headers::read(dir.path()).unwrap_err().contains("regular"));
        let huge = dir.path().join("huge");
        std::fs::write(&huge, vec![b'a'; 65 * 1024]).unwrap();
        assert!(Headers::read(&huge).unwrap_err().contains("too long"));
        let binary = dir.path().join("binary");
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(Headers::read(&binary).unwrap_err().contains("UTF-8"));
    }
}
