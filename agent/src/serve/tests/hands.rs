//! The tasks that carry a session's calls.

use std::time::Duration;

use culvert_proto::code::GoawayCode;

use super::*;
use crate::serve::hands::KEPT;

#[tokio::test(start_paused = true)]
async fn a_task_carries_one_call_after_the_other_and_ends_with_its_session() {
    let tunnel = Tunnel::new(POLICY).await;
    // The tunnel's own and the session's hold on what is served; a task has one each.
    let tasks = || Arc::strong_count(&tunnel.serving) - 2;
    for _ in 0..3 {
        let mut call = tunnel.call(&get("/other"), "");
        refusal(&mut call).await;
        assert_eq!(tasks(), 1);
    }
    for _ in 0..3 {
        let calls = (0..100).map(|_| tunnel.call(&get("/other"), ""));
        for mut call in calls.collect::<Vec<_>>() {
            refusal(&mut call).await;
        }
    }
    tunnel.serving.calls().close();
    tunnel.serving.calls().wait().await;
    assert!((1..=KEPT).contains(&tasks()), "{} tasks", tasks());

    tunnel.agent.close(GoawayCode::Drain, "the test is over");
    tunnel.agent.closed().await;
    for _ in 0..1000 {
        if Arc::strong_count(&tunnel.serving) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{} tasks are left", tasks() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_for_a_drain_before_its_task_has_begun() {
    let tunnel = Tunnel::new(POLICY).await;
    let hands = Hands::new(tunnel.serving.clone(), "relay-1".into());
    let other = Tunnel::new(POLICY).await;
    let stream = other.call(&get("/other"), "");
    hands.carry(get("/other"), stream);
    assert_eq!(tunnel.serving.calls().len(), 1);
}
