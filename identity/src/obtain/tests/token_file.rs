//! Tokens that somebody else writes into a file.

use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::testing::base64;

/// A JWT, as far as anybody looks at it here, that expires so long from now.
fn jwt(name: &str, left: i64) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let claims = json!({"sub": name, "exp": now + left});
    format!("e30.{}.c2ln", base64(claims.to_string()))
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_is_read_again_and_the_same_token_is_no_news() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let (first, second) = (jwt("first", 3600), jwt("second", 3600));
    std::fs::write(&path, format!("{first}\n")).unwrap();
    let source = started(TokenSource::new(Grant::TokenFile(path.clone())));
    let mut tokens = source.watch();
    let seen = tokens.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(seen.unwrap().expose(), first);

    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!tokens.has_changed().unwrap());

    // As Kubernetes does it: another file takes the name.
    let other = folder.path().join("other");
    std::fs::write(&other, &second).unwrap();
    std::fs::rename(&other, &path).unwrap();
    tokens.changed().await.unwrap();
    assert_eq!(source.token().await.unwrap().expose(), second);

    // A file that is away for a while costs nothing while its last token is good.
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(source.token().await.unwrap().expose(), second);
    assert!(source.status().error.is_some());
}

/// Nobody knows how long such a token lives: as long as it stands there, it counts.
#[tokio::test(start_paused = true)]
async fn an_opaque_token_that_stays_in_its_file_neither_expires_nor_is_news() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "an-opaque-token").unwrap();
    let source = started(TokenSource::new(Grant::TokenFile(path.clone())));
    let mut tokens = source.watch();
    tokens.wait_for(Option::is_some).await.unwrap();

    tokio::time::sleep(Duration::from_secs(20 * 60)).await;
    assert!(!tokens.has_changed().unwrap());
    let left = source.status().expires_in.unwrap();
    assert!(left > ASSUMED_LIFE - 2 * MIN_RENEWAL, "{left:?}");

    // Nobody says any more that it is good.
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(ASSUMED_LIFE + MIN_RENEWAL).await;
    assert!(tokens.borrow_and_update().is_none());
}

#[tokio::test]
async fn a_token_lives_as_long_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let grant = Grant::TokenFile(path.clone());

    std::fs::write(&path, jwt("a", 1000)).unwrap();
    let life = grant.obtain().await.unwrap().lifetime;
    assert!((990..=1000).contains(&life.as_secs()), "{life:?}");

    std::fs::write(&path, "an-opaque-token").unwrap();
    assert_eq!(grant.obtain().await.unwrap().lifetime, ASSUMED_LIFE);

    std::fs::write(&path, jwt("a", -1)).unwrap();
    let expired = grant.obtain().await.unwrap_err();
    assert!(matches!(expired, ObtainError::Expired { .. }), "{expired}");

    std::fs::remove_file(&path).unwrap();
    let missing = grant.obtain().await.unwrap_err();
    assert_eq!(missing.fault(), Fault::Configuration);
    assert!(missing.to_string().contains("token"), "{missing}");
}
