use super::*;

/// Releases by the runtime's clock, which tests hold in their hands.
fn release_by_task(shared: Arc<Shared>) {
    tokio::spawn(async move {
        for number in 0..shared.schedule.most {
            tokio::time::sleep_until(shared.schedule.at(number)).await;
            if shared.released.is_closed() {
                return;
            }
            shared.released.add_permits(1);
        }
    });
}

/// A server that answers in 1 ms, except that it stands still from `stall` on for two seconds.
struct Stalls {
    start: Instant,
}

const STALL: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(6)];

impl Caller for Stalls {
    async fn call(&mut self, recorder: &Arc<Recorder>) -> Result<(), Failure> {
        let since = self.start.elapsed();
        if since >= STALL[0] && since < STALL[1] {
            sleep(STALL[1] - since).await;
        }
        sleep(Duration::from_millis(1)).await;
        recorder.carried(1);
        Ok(())
    }
}

fn bounds(seconds: u64, calls: Option<u64>) -> Bounds {
    Bounds {
        time: Duration::from_secs(seconds),
        calls,
        patience: Duration::from_secs(30),
        stop: CancellationToken::new(),
    }
}

fn stalls() -> Vec<Stalls> {
    vec![Stalls {
        start: Instant::now(),
    }]
}

#[tokio::test(start_paused = true)]
async fn a_schedule_shows_a_stall_in_every_call_that_it_delays() {
    let recorder = Arc::new(Recorder::new().unwrap());
    drive_released(
        stalls(),
        Pace::Open(100.0),
        &bounds(10, None),
        &recorder,
        release_by_task,
    )
    .await;
    let latency = recorder.latency();
    assert!(recorder.count().calls >= 990, "{:?}", recorder.count());
    // Two of ten seconds stood still: of 1000 calls 200 were due in them, and waited for one
    // second on average.
    assert!(latency.value_at_quantile(0.99) > 1_500_000);
    assert!(latency.value_at_quantile(0.9) > 800_000);
    assert!(latency.value_at_quantile(0.5) < 3_000);

    // What a closed loop says of the same server: one slow call.
    let recorder = Arc::new(Recorder::new().unwrap());
    drive(stalls(), Pace::Closed, &bounds(10, None), &recorder).await;
    assert!(recorder.latency().value_at_quantile(0.99) < 3_000);
    assert!(recorder.latency().max() > 1_900_000);
}

/// A server that never answers.
struct Never;

impl Caller for Never {
    async fn call(&mut self, _: &Arc<Recorder>) -> Result<(), Failure> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn calls_whose_turn_never_came_are_counted_with_the_time_they_waited() {
    let recorder = Arc::new(Recorder::new().unwrap());
    let bounds = bounds(10, None);
    drive_released(
        vec![Never, Never],
        Pace::Open(10.0),
        &bounds,
        &recorder,
        release_by_task,
    )
    .await;
    let errors = recorder.errors();
    assert_eq!(recorder.count().calls, 0);
    assert_eq!(errors["unfinished"], 2);
    assert_eq!(errors["not begun: every worker was waiting"], 98);
    assert!(recorder.latency().value_at_quantile(0.5) > 4_000_000);
}

/// A server that is asked to answer after two seconds, and answers after some other time.
struct Held(Option<Duration>);

const HELD: Duration = Duration::from_secs(2);

impl Caller for Held {
    async fn call(&mut self, _: &Arc<Recorder>) -> Result<(), Failure> {
        match self.0 {
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
        Ok(())
    }

    fn held(&self) -> Duration {
        HELD
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_call_that_is_held_only_what_it_is_late_counts_and_it_may_not_be_early() {
    let measured = async |answer: Option<Duration>, seconds: u64| {
        let recorder = Arc::new(Recorder::new().unwrap());
        let callers = vec![Held(answer)];
        drive(callers, Pace::Closed, &bounds(seconds, Some(1)), &recorder).await;
        let count = recorder.count();
        (
            count.calls,
            recorder.errors().into_keys().collect::<String>(),
            recorder.latency().max() / 100_000,
        )
    };
    let late = HELD + Duration::from_millis(300);
    assert_eq!(measured(Some(late), 10).await, (1, String::new(), 3));
    let early = Duration::from_millis(500);
    let expected = (0, "answered too early".into(), 5);
    assert_eq!(measured(Some(early), 10).await, expected);
    // Five seconds of grace after ten, and two that it was to wait.
    let expected = (0, "unfinished".into(), 130);
    assert_eq!(measured(None, 10).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_held_has_not_failed_when_somebody_ends_the_run() {
    let recorder = Arc::new(Recorder::new().unwrap());
    let bounds = bounds(10, None);
    let stop = bounds.stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        stop.cancel();
    });
    drive(vec![Held(Some(HELD))], Pace::Closed, &bounds, &recorder).await;
    assert_eq!((recorder.count().calls, recorder.count().errors), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drive_ends_at_its_count_and_when_it_is_stopped() {
    let recorder = Arc::new(Recorder::new().unwrap());
    let took = drive(stalls(), Pace::Closed, &bounds(10, Some(7)), &recorder).await;
    assert_eq!(recorder.count().calls, 7);
    assert_eq!(recorder.count().bytes, 7);
    assert!(took < Duration::from_secs(1));

    let stopped = bounds(1000, None);
    let stop = stopped.stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(2)).await;
        stop.cancel();
    });
    let took = drive(stalls(), Pace::Closed, &stopped, &recorder).await;
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3));
}
