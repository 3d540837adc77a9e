//! Refresh tokens that rotate: the newest is on disk before its access token is used, whatever
//! happens in between.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::*;
use crate::fetch::Proxying;
use crate::obtain::refresh::SAVE_AGAIN;
use crate::testing::server::{Answer, Server, json_answer, text_answer};

fn client(server: &Server) -> OAuthClient {
    OAuthClient {
        server: TokenServer::TokenUrl(server.url("/token")),
        client_id: "sddc-fra-1".into(),
        auth: ClientAuth::Public,
        audience: None,
        resource: None,
        scope: "culvert:register".into(),
        ca: None,
        proxying: Proxying::default(),
    }
}

/// The grant with the token at `path`.
fn grant_of(server: &Server, path: &Path) -> Grant {
    let file = RefreshTokenFile::claim(path.to_owned()).unwrap();
    Grant::RefreshToken(client(server), file)
}

/// A folder with a token, and the token's path.
fn with_token(token: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refresh");
    std::fs::write(&path, token).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (folder, path)
}

/// An issuer that takes each refresh token once and gives the next: `refresh-1` and so on.
async fn rotating() -> Server {
    let next = Arc::new(AtomicU32::new(1));
    Server::start(move |seen| {
        let number = next.load(Ordering::SeqCst);
        if seen.field("refresh_token") != Some(format!("refresh-{number}")) {
            return refusal();
        }
        next.store(number + 1, Ordering::SeqCst);
        json_answer(
            200,
            &json!({
                "access_token": format!("access-{number}"), "token_type": "Bearer",
                "expires_in": 600, "refresh_token": format!("refresh-{}", number + 1),
            }),
        )
    })
    .await
}

fn refusal() -> Answer {
    json_answer(
        400,
        &json!({"error": "invalid_grant", "error_description": "used before"}),
    )
}

fn stored(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn each_refresh_token_is_used_once_and_the_next_one_is_on_disk_before_it_counts() {
    let server = rotating().await;
    let (_folder, path) = with_token("refresh-1\n");
    let grant = grant_of(&server, &path);
    for number in 1..=3 {
        let token = grant.obtain().await.unwrap();
        assert_eq!(token.expose(), format!("access-{number}"));
        assert_eq!(stored(&path), format!("refresh-{}\n", number + 1));
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        server.seen()[0].field("grant_type").as_deref(),
        Some("refresh_token")
    );
    // A program that starts anew goes on from there.
    drop(grant);
    let grant = grant_of(&server, &path);
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-4");
}

#[tokio::test]
async fn an_exchange_that_nobody_waits_for_any_more_still_stores_what_it_got() {
    let server = rotating().await;
    let (_folder, path) = with_token("refresh-1");
    let grant = grant_of(&server, &path);
    // One poll starts the exchange; then the future is dropped.
    let begun = tokio::time::timeout(Duration::ZERO, grant.obtain()).await;
    assert!(begun.is_err());
    while stored(&path) != "refresh-2\n" {
        tokio::task::yield_now().await;
    }
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-2");
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_kept_and_stored_later() {
    let server = rotating().await;
    let (_folder, path) = with_token("refresh-1");
    let grant = grant_of(&server, &path);
    let obstacle = obstruct(&path);
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-1");
    assert_eq!(stored(&path), "refresh-1");
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-2");
    std::fs::remove_dir(&obstacle).unwrap();
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-3");
    assert_eq!(stored(&path), "refresh-4\n");
}

/// Where the next version of the token at `path` is to be written stands a folder: the disk takes
/// nothing, until it is removed.
fn obstruct(path: &Path) -> PathBuf {
    let obstacle = path.with_extension("new");
    std::fs::create_dir(&obstacle).unwrap();
    obstacle
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_stored_soon_after_it_could_not_be() {
    let server = rotating().await;
    let (_folder, path) = with_token("refresh-1");
    let grant = grant_of(&server, &path);
    let obstacle = obstruct(&path);
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-1");
    tokio::time::pause();
    tokio::time::sleep(3 * SAVE_AGAIN).await;
    assert_eq!(stored(&path), "refresh-1");
    std::fs::remove_dir(&obstacle).unwrap();
    tokio::time::sleep(2 * SAVE_AGAIN).await;
    assert_eq!(stored(&path), "refresh-2\n");
}

#[tokio::test]
async fn what_the_disk_did_not_take_is_tried_once_more_at_the_end() {
    let server = rotating().await;
    let (_folder, path) = with_token("refresh-1");
    let grant = grant_of(&server, &path);
    let obstacle = obstruct(&path);
    assert_eq!(grant.obtain().await.unwrap().expose(), "access-1");
    std::fs::remove_dir(&obstacle).unwrap();
    drop(grant);
    assert_eq!(stored(&path), "refresh-2\n");
}

#[tokio::test]
async fn a_new_refresh_token_is_stored_whatever_else_is_wrong_with_the_answer() {
    for first in [
        json_answer(
            200,
            &json!({
                "access_token": "access-1", "token_type": "Bearer", "expires_in": 0,
                "refresh_token": "refresh-2",
            }),
        ),
        json_answer(
            200,
            &json!({"access_token": "a", "token_type": "DPoP", "refresh_token": "refresh-2"}),
        ),
        json_answer(
            200,
            &json!({"access_token": "a", "refresh_token": "refresh-2"}),
        ),
        json_answer(200, &json!({"refresh_token": "refresh-2"})),
        text_answer(200, "text/plain", r#"{"refresh_token": "refresh-2"}"#),
    ] {
        let shown = format!("{first:?}");
        let server = Server::start(move |seen| match seen.field("refresh_token").as_deref() {
            Some("refresh-1") => first.clone(),
            Some("refresh-2") => json_answer(
                200,
                &json!({"access_token": "access-2", "token_type": "Bearer"}),
            ),
            _ => refusal(),
        })
        .await;
        let (_folder, path) = with_token("refresh-1");
        let grant = grant_of(&server, &path);
        let error = grant.obtain().await.unwrap_err();
        assert!(
            matches!(error, ObtainError::BadAnswer(_)),
            "{shown}: {error}"
        );
        assert_eq!(stored(&path), "refresh-2\n", "{shown}");
        assert_eq!(grant.obtain().await.unwrap().expose(), "access-2");
    }
}

#[tokio::test]
async fn a_void_refresh_token_is_said_to_be_the_configurations_fault_and_what_to_do() {
    let server = Server::start(|_| refusal()).await;
    let (_folder, path) = with_token("refresh-0");
    let error = grant_of(&server, &path).obtain().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Configuration);
    let text = error.to_string();
    assert!(
        text.contains("used before") && text.contains("refresh_token_file"),
        "{text}"
    );
    assert_eq!(stored(&path), "refresh-0", "nothing is lost");
}

/// What root leaves behind, the agent's user must be able to use: token and lock.
#[tokio::test]
async fn root_leaves_the_token_and_its_lock_to_the_tokens_owner() {
    let server = rotating().await;
    let (folder, path) = with_token("refresh-1");
    if chown(&path, Some(65532), Some(65533)).is_err() {
        // Only root can give files away, and so only root can do harm.
        return;
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let grant = grant_of(&server, &path);
    for number in 2..=3 {
        grant.obtain().await.unwrap();
        assert_eq!(stored(&path), format!("refresh-{number}\n"));
        for name in ["refresh", "refresh.lock"] {
            let found = std::fs::metadata(folder.path().join(name)).unwrap();
            let found = (found.uid(), found.gid(), found.mode() & 0o777);
            assert_eq!(found, (65532, 65533, 0o400), "{name}");
        }
    }
    assert!(!folder.path().join("refresh.new").exists());
}

/// The folder is the owner's, who could lay links for root.
#[tokio::test]
async fn no_link_makes_root_write_or_give_away_another_file() {
    let server = rotating().await;
    let (folder, path) = with_token("refresh-1");
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::os::unix::fs::symlink(&victim, path.with_extension("new")).unwrap();
    let missing = folder.path().join("missing");
    std::os::unix::fs::symlink(&missing, path.with_extension("lock")).unwrap();
    RefreshTokenFile::claim(path.clone()).unwrap_err();
    assert!(!missing.exists());
    std::fs::remove_file(path.with_extension("lock")).unwrap();
    grant_of(&server, &path).obtain().await.unwrap();
    assert_eq!(stored(&path), "refresh-2\n");
    assert_eq!(stored(&victim), "untouched");
}

#[test]
fn two_programs_cannot_use_one_refresh_token() {
    let (_folder, path) = with_token("refresh-1");
    let first = RefreshTokenFile::claim(path.clone()).unwrap();
    let second = RefreshTokenFile::claim(path.clone()).unwrap_err();
    assert!(second.to_string().contains("another program"), "{second}");
    drop(first);
    RefreshTokenFile::claim(path).unwrap();
}

#[test]
fn a_file_without_a_token_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refresh");
    assert!(RefreshTokenFile::claim(path.clone()).is_err(), "missing");
    for content in ["", "\n", "two words", "\u{fc}"] {
        std::fs::write(&path, content).unwrap();
        assert!(
            RefreshTokenFile::claim(path.clone()).is_err(),
            "{content:?}"
        );
    }
}
