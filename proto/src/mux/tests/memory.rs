//! What waits takes bounded memory: for a stream, and for all sessions of a process.

use super::hostile::{Victim, open};
use super::pair::{Pair, bytes_of, drain};
use super::*;
use crate::frame::FIN;
use crate::growth::{GrowthBudget, TenantBudgets};
use crate::limits::{FLOOR, FRAME};
use crate::mux::accounts::FREE;
use crate::mux::stream::Received;

const KIB: usize = 1024;

/// Two ends of which the acceptor (and, if so, the dialer) has only so much memory.
fn pair(acceptor: &GrowthBudget, dialer: Option<&GrowthBudget>) -> Pair {
    let mut configs = [config(Side::Dialer), config(Side::Acceptor)];
    configs[1].limits.waiting = acceptor.clone();
    if let Some(dialer) = dialer {
        configs[0].limits.waiting = dialer.clone();
    }
    let [dialer, acceptor] = configs;
    Pair::with(dialer, acceptor, Duration::ZERO)
}

fn write(mux: &mut Mux, id: StreamId, bytes: usize) -> usize {
    let mut data = Bytes::from(vec![7; bytes]);
    mux.write(id, &mut data).unwrap()
}

#[test]
fn small_pieces_take_hardly_more_memory_than_their_bytes() {
    let mut pair = Pair::new(Duration::ZERO);
    let id = pair.open();
    for byte in 0..100_000u32 {
        let mut message = BytesMut::new();
        put_frame(&mut message, Kind::Data, 0, id.0, &[byte as u8]);
        pair.acceptor
            .handle_message(message.freeze(), pair.now)
            .unwrap();
    }
    let queue = &pair.acceptor.streams.find(id).unwrap().recv.queue;
    assert_eq!(queue.len(), 100_000usize.div_ceil(FRAME));
    let held: usize = queue
        .iter()
        .map(|received| match received {
            Received::Gathered(data) => data.capacity(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(held <= 200_000, "{held}");
    let (items, _) = drain(&mut pair.acceptor, id, pair.now);
    let sent: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
    assert!(bytes_of(&items) == sent, "in order and unchanged");
}

#[test]
fn a_session_with_little_waiting_leaves_the_budget_alone() {
    let budget = GrowthBudget::new(1 << 30);
    let mut pair = pair(&budget, None);
    let id = pair.open();
    for _ in 0..100 {
        assert_eq!(write(&mut pair.dialer, id, 60 * KIB), 60 * KIB);
        pair.settle();
        assert_eq!(budget.used(), 0);
        drain(&mut pair.acceptor, id, pair.now);
        pair.settle();
    }
}

#[test]
fn writers_wait_for_memory_but_every_stream_moves_on() {
    let budget = GrowthBudget::new(100 * KIB as u64);
    let mut pair = pair(&budget, None);
    let (greedy, other) = (pair.open(), pair.open());
    let taken = write(&mut pair.acceptor, greedy, 256 * KIB);
    assert_eq!(taken, FLOOR, "there is no memory for the whole");
    let mut taken = taken;
    while let more @ 1.. = write(&mut pair.acceptor, greedy, 16 * KIB) {
        taken += more;
    }
    assert!(taken < 256 * KIB, "{taken}");
    assert!(budget.used() <= budget.total());
    assert_eq!(write(&mut pair.acceptor, other, 64 * KIB), FLOOR);
    assert_eq!(
        write(&mut pair.acceptor, other, 1),
        0,
        "it is told when it can go on"
    );
    pair.settle();
    let told = events(&mut pair.acceptor);
    for id in [greedy, other] {
        let writable = |event: &Event| matches!(event, Event::Writable(of) if *of == id);
        assert!(told.iter().any(writable), "{told:?}");
    }
    assert_eq!(write(&mut pair.acceptor, other, 64 * KIB), 64 * KIB);
}

#[test]
fn without_memory_a_stream_that_nobody_reads_is_broken_off_and_those_that_are_read_go_on() {
    let budget = GrowthBudget::new(100 * KIB as u64);
    let mut pair = pair(&budget, None);
    let (stuck, read) = (pair.open(), pair.open());
    let piece = || Bytes::from(vec![7; 16 * KIB]);
    let mut sent = 0;
    while pair.dialer.write(stuck, &mut piece()).is_ok() {
        pair.settle();
        sent += 16;
        assert!(sent <= 256, "{sent} KiB wait");
    }
    assert!(
        sent > 100,
        "{sent} KiB may wait: 64 are free, the budget has 100"
    );
    let stats = pair.acceptor.stats();
    assert_eq!(stats.buffered, 0, "what waited of it is gone");
    assert_eq!(budget.used(), 0, "and its memory is free again");
    let overloaded = Err(StreamError::Reset(ResetCode::Overloaded));
    assert_eq!(pair.acceptor.read(stuck, pair.now).map(drop), overloaded);
    let mut nothing = Bytes::from_static(b"x");
    assert_eq!(pair.dialer.write(stuck, &mut nothing).map(drop), overloaded);

    let mut arrived = 0;
    for _ in 0..100 {
        assert_eq!(write(&mut pair.dialer, read, 16 * KIB), 16 * KIB);
        pair.settle();
        arrived += bytes_of(&drain(&mut pair.acceptor, read, pair.now).0).len();
        pair.settle();
    }
    assert_eq!(arrived, 1600 * KIB);
}

#[test]
fn every_stream_holds_a_frames_worth_to_the_byte_however_short_memory_is() {
    let budget = GrowthBudget::new(0);
    let mut pair = pair(&budget, None);
    let ids = [(); FREE / FLOOR + 1].map(|()| pair.open());
    for id in ids {
        assert_eq!(write(&mut pair.dialer, id, FLOOR), FLOOR);
        pair.settle();
    }
    let all = ids.len() * FLOOR;
    assert_eq!(pair.acceptor.stats().buffered, all);
    // One byte more of the first is one too many, and the others have room again.
    write(&mut pair.dialer, ids[0], 1);
    pair.settle();
    assert_eq!(pair.acceptor.stats().buffered, all - FLOOR);
}

#[test]
fn a_call_for_whose_body_there_is_no_memory_leaves_nothing_behind() {
    let mut victim = Victim::new();
    let mut config = config(Side::Acceptor);
    config.limits.waiting_of = Some(GrowthBudget::new(0).by_tenant());
    victim.mux = Mux::new(config, victim.now);
    let mut peer = Mux::new(super::config(Side::Dialer), victim.now);
    let greeting = transmit(&mut peer, victim.now);
    victim.take(&[greeting.to_vec()]).unwrap();
    let body = vec![7; FLOOR + 1];
    let calls: Vec<_> = (1..21).step_by(2).map(|id| open(id, FIN, &body)).collect();
    victim.take(&calls).unwrap();
    let stats = victim.mux.stats();
    assert_eq!((stats.streams, stats.refused), (FREE / body.len(), 10 - 3));
    while let Some((id, _)) = victim.mux.accept() {
        victim.mux.release_send(id);
        victim.mux.release_recv(id);
    }
    transmit(&mut victim.mux, victim.now);
    assert_eq!(victim.mux.stats().streams, 0);
    assert_eq!(victim.mux.streams.accounts.len(), 0);
}

#[test]
fn heads_that_nobody_reads_take_no_more_memory_than_data_does() {
    const STREAMS: usize = 20;
    let budget = GrowthBudget::new(100 * KIB as u64);
    let mut pair = pair(&budget, None);
    let Head::Response(mut hints) = answer() else {
        unreachable!()
    };
    hints.status = StatusCode::EARLY_HINTS;
    hints
        .headers
        .insert("link", "x".repeat(60 * KIB).parse().unwrap());
    let hints = Head::Interim(hints);
    let ids: Vec<StreamId> = (0..STREAMS).map(|_| pair.open()).collect();
    for _ in 0..4 {
        for id in &ids {
            // Those that were broken off take no more.
            let _ = pair.dialer.send_head(*id, &hints);
            pair.settle();
            let buffered = pair.acceptor.stats().buffered;
            let most = FREE + 100 * KIB + STREAMS * FLOOR;
            assert!(buffered <= most, "{buffered} bytes wait of {most}");
        }
    }
    let broken_off = |id: &&StreamId| {
        let result = pair.dialer.send_head(**id, &hints);
        result == Err(StreamError::Reset(ResetCode::Overloaded))
    };
    assert!(ids.iter().filter(broken_off).count() > 0);
}

#[test]
fn memory_that_a_busy_session_had_is_given_back_when_it_is_idle() {
    let budget = GrowthBudget::new(1 << 30);
    let mut pair = pair(&budget, Some(&budget));
    let ids = [(); 8].map(|()| pair.open());
    for id in ids {
        write(&mut pair.dialer, id, 256 * KIB);
    }
    pair.settle();
    assert!(budget.used() >= (8 * 256 - 64) as u64 * KIB as u64);
    for id in ids {
        drain(&mut pair.acceptor, id, pair.now);
    }
    pair.advance(Duration::from_secs(6));
    assert_eq!(budget.used(), 0);
}

/// Two ends between which calls of many tenants go, each on its own part of the end's memory.
fn link(acceptor: TenantBudgets, dialer: TenantBudgets) -> Pair {
    let [dialer, acceptor] =
        [(Side::Dialer, dialer), (Side::Acceptor, acceptor)].map(|(side, budgets)| {
            let mut config = config(side);
            config.limits.waiting_of = Some(budgets);
            config
        });
    Pair::with(dialer, acceptor, Duration::ZERO)
}

/// Lets go of streams at both ends, and asserts that nothing is left of them.
fn let_go(mut pair: Pair, ids: impl IntoIterator<Item = StreamId>, budget: &GrowthBudget) {
    for id in ids {
        for mux in [&mut pair.dialer, &mut pair.acceptor] {
            mux.release_send(id);
            mux.release_recv(id);
        }
    }
    pair.settle();
    assert_eq!((budget.used(), budget.tenants()), (0, 0));
    for mux in [&pair.dialer, &pair.acceptor] {
        let left = (mux.streams.accounts.len(), mux.streams.accounts.waits());
        assert_eq!((mux.stats().streams, left), (0, (0, 0)));
    }
}

/// One tenant's streams that nobody reads, at the end that `reads`, leave another tenant's alone.
fn a_tenant_uses_up_its_own_part(reads: Side) {
    const TOTAL: usize = 1024 * KIB;
    let (budget, plenty) = (GrowthBudget::new(TOTAL as u64), GrowthBudget::new(1 << 40));
    let mut pair = match reads {
        Side::Dialer => link(plenty.by_tenant(), budget.by_tenant()),
        Side::Acceptor => link(budget.by_tenant(), plenty.by_tenant()),
    };
    let writes = other(reads);
    let greedy: Vec<StreamId> = (0..30)
        .map(|_| pair.open_call(&call_of("greedy")))
        .collect();
    let other = pair.open_call(&call_of("other"));
    assert_eq!(write(pair.end(writes), other, 100 * KIB), 100 * KIB);
    pair.settle();
    for _ in 0..8 {
        for id in &greedy {
            // Those that were broken off take no more.
            let mut piece = Bytes::from(vec![7; 16 * KIB]);
            let _ = pair.end(writes).write(*id, &mut piece);
            pair.settle();
            let waits = pair.end(reads).stats().buffered;
            let most = FREE + TOTAL + (greedy.len() + 1) * FLOOR;
            assert!(waits <= most, "{waits} bytes wait of {most}");
            assert!(budget.used() <= budget.total());
        }
    }
    let overloaded = StreamError::Reset(ResetCode::Overloaded);
    let state = |pair: &mut Pair, id: &StreamId| pair.end(writes).write(*id, &mut Bytes::new());
    let gone = greedy
        .iter()
        .filter(|id| state(&mut pair, id) == Err(overloaded))
        .count();
    assert!(gone > 0, "one tenant has all of the memory");
    assert!(gone < greedy.len(), "its part is no smaller for it");

    // Who was there has its part, and so has who comes now.
    let late = pair.open_call(&call_of("late"));
    assert_eq!(write(pair.end(writes), other, 100 * KIB), 100 * KIB);
    assert_eq!(write(pair.end(writes), late, 200 * KIB), 200 * KIB);
    pair.settle();
    for id in [other, late] {
        let now = pair.now;
        let (items, error) = drain(pair.end(reads), id, now);
        assert_eq!((bytes_of(&items).len(), error), (200 * KIB, None));
    }
    let_go(pair, greedy.into_iter().chain([other, late]), &budget);
}

#[test]
fn answers_that_nobody_reads_use_up_the_part_of_their_tenant_alone() {
    a_tenant_uses_up_its_own_part(Side::Acceptor);
}

#[test]
fn uploads_that_nobody_reads_use_up_the_part_of_their_tenant_alone() {
    a_tenant_uses_up_its_own_part(Side::Dialer);
}

#[test]
fn who_comes_when_a_tenant_alone_has_all_that_it_can_finds_room() {
    let (budget, plenty) = (GrowthBudget::new(1 << 20), GrowthBudget::new(1 << 40));
    let all = budget.clone();
    let budgets = TenantBudgets::new(move |tenant| all.of_tenant(tenant.as_str()).leaving_room());
    let mut pair = link(budgets, plenty.by_tenant());
    let greedy = [(); 30].map(|()| pair.open_call(&call_of("greedy")));
    for id in &greedy {
        write(&mut pair.dialer, *id, 250 * KIB);
    }
    pair.settle();
    assert!(budget.used() <= 512 * KIB as u64, "{}", budget.used());
    let other = pair.open_call(&call_of("other"));
    assert_eq!(write(&mut pair.dialer, other, 200 * KIB), 200 * KIB);
    pair.settle();
    let (items, error) = drain(&mut pair.acceptor, other, pair.now);
    assert_eq!((bytes_of(&items).len(), error), (200 * KIB, None));
    let_go(pair, greedy.into_iter().chain([other]), &budget);
}

#[test]
fn what_one_tenant_has_to_send_leaves_others_their_part() {
    let (budget, plenty) = (GrowthBudget::new(1 << 20), GrowthBudget::new(1 << 40));
    let mut pair = link(budget.by_tenant(), plenty.by_tenant());
    let greedy: Vec<StreamId> = (0..10)
        .map(|_| pair.open_call(&call_of("greedy")))
        .collect();
    let other = pair.open_call(&call_of("other"));
    // The line takes nothing meanwhile.
    assert_eq!(write(&mut pair.acceptor, other, 100 * KIB), 100 * KIB);
    for id in &greedy {
        write(&mut pair.acceptor, *id, 256 * KIB);
    }
    assert_eq!(write(&mut pair.acceptor, greedy[9], 1), 0);
    assert_eq!(write(&mut pair.acceptor, other, 150 * KIB), 150 * KIB);
    assert!(budget.used() <= budget.total());
    let_go(pair, greedy.into_iter().chain([other]), &budget);
}

#[test]
fn a_tenant_holds_no_more_than_it_may_at_most() {
    const MOST: usize = 200 * KIB;
    let (budget, plenty) = (GrowthBudget::new(1 << 30), GrowthBudget::new(1 << 40));
    let all = budget.clone();
    let capped = TenantBudgets::new(move |tenant| match tenant.as_str() {
        "capped" => all.of_tenant("capped").at_most(MOST as u64),
        tenant => all.of_tenant(tenant),
    });
    let mut pair = link(capped, plenty.by_tenant());
    let capped = [(); 10].map(|()| pair.open_call(&call_of("capped")));
    let other = pair.open_call(&call_of("other"));
    let taken: usize = capped
        .iter()
        .map(|id| write(&mut pair.acceptor, *id, 100 * KIB))
        .sum();
    let most = FREE + MOST + capped.len() * FLOOR;
    assert!((MOST..=most).contains(&taken), "{taken} bytes of {most}");
    assert!(budget.used() <= MOST as u64);
    assert_eq!(write(&mut pair.acceptor, other, 256 * KIB), 256 * KIB);
    let_go(pair, capped.into_iter().chain([other]), &budget);
}

#[test]
fn all_tenants_of_a_session_together_have_as_much_outside_of_the_budget_as_one() {
    const TENANTS: usize = 40;
    let budget = GrowthBudget::new(0);
    let mut pair = link(budget.by_tenant(), budget.by_tenant());
    let ids: Vec<StreamId> = (0..TENANTS)
        .map(|tenant| pair.open_call(&call_of(&format!("tenant-{tenant}"))))
        .collect();
    for id in &ids {
        let taken = write(&mut pair.acceptor, *id, 40 * KIB);
        assert!(taken >= FLOOR, "every stream moves on");
    }
    let waits = pair.acceptor.stats().queued;
    assert!(waits <= FREE + TENANTS * FLOOR, "{waits} bytes wait");
    assert_eq!(pair.acceptor.streams.accounts.len(), TENANTS);
    let_go(pair, ids, &budget);
}

#[test]
fn a_tenant_has_an_account_while_it_has_streams() {
    let budget = GrowthBudget::new(1 << 30);
    let mut pair = link(budget.by_tenant(), budget.by_tenant());
    let lasting = pair.open_call(&call_of("lasting"));
    let account = |pair: &Pair, id| pair.acceptor.streams.find(id).unwrap().account;
    let mut places = Vec::new();
    for tenant in 0..100 {
        let tenant = call_of(&format!("tenant-{tenant}"));
        let (one, two) = (pair.open_call(&tenant), pair.open_call(&tenant));
        assert_eq!(account(&pair, one), account(&pair, two));
        assert_ne!(account(&pair, one), account(&pair, lasting));
        places.push(account(&pair, one));
        write(&mut pair.acceptor, one, 200 * KIB);
        for id in [one, two] {
            pair.acceptor.reset(id, ResetCode::Cancelled);
            pair.settle();
            for mux in [&mut pair.dialer, &mut pair.acceptor] {
                mux.release_send(id);
                mux.release_recv(id);
            }
        }
        assert_eq!(pair.acceptor.streams.accounts.len(), 1);
        assert_eq!(pair.dialer.streams.accounts.len(), 1);
    }
    places.dedup();
    assert_eq!(places.len(), 1, "who comes takes the place of who went");
    let_go(pair, [lasting], &budget);
}
