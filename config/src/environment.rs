//! The process's environment, as far as it is text.

use std::ffi::OsString;
use std::path::Path;

use crate::ConfigError;

/// The variables of this process. Those that are not UTF-8 are passed over, whoever set them, but for the
/// ones that would mean something here.
pub(crate) fn read(
    file: &Path,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut environment = Vec::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => environment.push((name, value)),
            Err(_) if is_read(&name) => {
                let message = format!("the environment variable {name} is not UTF-8");
                return Err(ConfigError::file(file, message));
            }
            Err(_) => {}
        }
    }
    Ok(environment)
}

/// Whether it is one of Culvert's own, or one of those that say which proxy leads to whom.
fn is_read(name: &str) -> bool {
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    name.starts_with("CULVERT_") || proxies.contains(&name.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn read_one(name: &str, value: &[u8]) -> Result<Vec<(String, String)>, ConfigError> {
        let variable = (name.into(), OsString::from_vec(value.to_vec()));
        read(Path::new("agent.toml"), [variable].into_iter())
    }

    #[test]
    fn what_is_not_text_matters_only_where_it_would_be_read() {
        let taken = [("PS1".to_owned(), "ok".to_owned())];
        assert_eq!(read_one("PS1", b"ok").unwrap(), taken);
        for others in ["OLDPWD", "MY_PROXY"] {
            assert!(read_one(others, b"/caf\xe9").unwrap().is_empty());
        }
        let name = OsString::from_vec(b"CULVERT_\xff".to_vec());
        let nameless = read(Path::new("agent.toml"), [(name, "ok".into())].into_iter());
        assert!(nameless.unwrap().is_empty());
        for name in ["CULVERT_NODE", "https_proxy", "NO_PROXY"] {
            let error = read_one(name, b"\xff").unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
