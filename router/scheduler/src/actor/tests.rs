//! The actor with a scripted shard: streams, cancels, draining, and what a token costs.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use futures_util::{StreamExt, stream::unfold};
use ribbon_core::{
    Engine, EngineState, FinishReason, Line, PlanSink, Refusal, SequenceRequest, ShardDescription,
    ShardEvent, Shards, StepPlan, StreamError, TokenStream,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::*;
use crate::testing::{answer, description, request};

const SOON: Duration = Duration::from_secs(20);

/// Answers every plan at once; the test may add events of its own.
#[derive(Debug)]
struct Instantly {
    events: mpsc::Receiver<ShardEvent>,
}

#[derive(Debug)]
struct Sink {
    events: mpsc::Sender<ShardEvent>,
    answers: bool,
    hung: mpsc::Sender<u64>,
}

impl PlanSink for Sink {
    fn send(&mut self, plan: StepPlan) {
        if self.answers {
            self.events
                .try_send(ShardEvent::Outcome(answer(&plan, 5)))
                .unwrap();
        }
    }

    fn report_hung(&self, step_id: u64) {
        self.hung.try_send(step_id).unwrap();
    }
}

impl Shards for Instantly {
    fn events(self: Box<Self>) -> Pin<Box<dyn Stream<Item = ShardEvent> + Send>> {
        Box::pin(unfold(self.events, |mut events| async move {
            let event = events.recv().await?;
            Some((event, events))
        }))
    }
}

fn submit(house: &House, request: SequenceRequest) -> Result<TokenStream, Refusal> {
    let mut streams = house.handle.submit(vec![request])?;
    Ok(streams.remove(0))
}

struct House {
    handle: SchedulerHandle,
    events: mpsc::Sender<ShardEvent>,
    hung: mpsc::Receiver<u64>,
    hung_sender: mpsc::Sender<u64>,
    tasks: JoinSet<()>,
}

impl House {
    fn new(settings: SchedulerSettings) -> Self {
        let (events, receiver) = mpsc::channel(64);
        let (hung_sender, hung) = mpsc::channel(8);
        let shards = Box::new(Instantly { events: receiver });
        let (handle, actor) = SchedulerHandle::start(settings, shards);
        let mut tasks = JoinSet::new();
        tasks.spawn(actor.run());
        Self {
            handle,
            events,
            hung,
            hung_sender,
            tasks,
        }
    }

    async fn ready(&self, generation: u64, description: ShardDescription, answers: bool) {
        let (events, hung) = (self.events.clone(), self.hung_sender.clone());
        let plans = Box::new(Sink {
            events,
            answers,
            hung,
        });
        let description = Box::new(description);
        self.events
            .send(ShardEvent::Ready {
                description,
                plans,
                generation,
            })
            .await
            .unwrap();
        self.until(EngineState::Ready).await;
    }

    async fn until(&self, state: EngineState) {
        let reached = async {
            while self.handle.state() != state {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, reached).await.unwrap();
    }

    async fn empty(&self) {
        let reached = async {
            while self.handle.gate.occupied() > 0 || self.handle.load().running > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, reached).await.unwrap();
    }
}

async fn all(stream: TokenStream) -> Vec<Item> {
    timeout(SOON, stream.collect()).await.unwrap()
}

#[tokio::test]
async fn a_stream_yields_every_token_and_ends() {
    let house = House::new(SchedulerSettings::default());
    assert!(matches!(
        submit(&house, request(10, 3)),
        Err(Refusal::NotReady { .. })
    ));
    house.ready(1, description(), true).await;
    assert_eq!(house.handle.limits().unwrap().max_total_tokens, 512);
    let items = all(submit(&house, request(10, 3)).unwrap()).await;
    let finishes: Vec<_> = items.into_iter().map(|item| item.unwrap().finish).collect();
    assert_eq!(finishes, [None, None, Some(FinishReason::Length)]);
    house.empty().await;
}

#[tokio::test]
async fn dropping_the_stream_cancels() {
    let house = House::new(SchedulerSettings::default());
    house.ready(1, description(), false).await;
    let stream = submit(&house, request(10, 300)).unwrap();
    let running = async {
        while house.handle.load().running == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, running).await.unwrap();
    drop(stream);
    house.empty().await;
}

#[tokio::test]
async fn drain_waits_for_the_last_stream_and_refuses_new_ones() {
    let mut house = House::new(SchedulerSettings::default());
    house.ready(1, description(), true).await;
    let stream = submit(&house, request(10, 300)).unwrap();
    let reading = all(stream);
    let draining = timeout(SOON, house.handle.drain(Duration::ZERO));
    let (items, drained) = tokio::join!(reading, draining);
    drained.unwrap();
    assert_eq!(items.len(), 300);
    assert!(matches!(
        submit(&house, request(1, 1)),
        Err(Refusal::ShuttingDown)
    ));
    house.handle.stop();
    timeout(SOON, house.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    timeout(SOON, house.handle.drain(Duration::ZERO))
        .await
        .unwrap();
}

fn line(generated: Vec<u32>) -> Line {
    let request = request(10, generated.len() as u32 + 1);
    Line { request, generated }
}

#[tokio::test]
async fn a_search_holds_one_place_from_its_first_round_to_its_end() {
    let house = House::new(SchedulerSettings {
        max_concurrent_requests: 1,
        ..SchedulerSettings::default()
    });
    house.ready(1, description(), true).await;
    let mut search = house.handle.search(vec![request(10, 9)]).unwrap().remove(0);
    for generated in [vec![], vec![5], vec![5, 5]] {
        let lines = vec![line(generated); 3];
        let mut streams = search.round(lines);
        assert_eq!(streams.len(), 3);
        assert_eq!(house.handle.gate.occupied(), 1);
        for stream in streams.drain(..) {
            let items = all(stream).await;
            assert_eq!(items.len(), 1);
            let event = items.into_iter().next().unwrap().unwrap();
            assert_eq!(event.finish, Some(FinishReason::Length));
        }
        let refused = submit(&house, request(1, 1));
        assert!(matches!(refused, Err(Refusal::Overloaded { .. })));
    }
    drop(search);
    house.empty().await;
    assert_eq!(all(submit(&house, request(1, 1)).unwrap()).await.len(), 1);
}

#[tokio::test]
async fn drain_waits_for_a_search_that_is_between_two_rounds() {
    let house = House::new(SchedulerSettings::default());
    house.ready(1, description(), true).await;
    let mut search = house.handle.search(vec![request(10, 9)]).unwrap().remove(0);
    for stream in search.round(vec![line(vec![])]) {
        all(stream).await;
    }
    let draining = house.handle.drain(Duration::ZERO);
    tokio::pin!(draining);
    assert!(draining.as_mut().now_or_never().is_none());
    house.until(EngineState::Draining).await;
    for stream in search.round(vec![line(vec![5]), line(vec![6])]) {
        assert!(all(stream).await[0].is_ok(), "its rounds are still taken");
    }
    assert!(draining.as_mut().now_or_never().is_none());
    drop(search);
    timeout(SOON, draining).await.unwrap();
}

#[tokio::test]
async fn a_search_that_is_dropped_leaves_nothing() {
    let house = House::new(SchedulerSettings::default());
    house.ready(1, description(), false).await;
    let mut search = house.handle.search(vec![request(10, 9)]).unwrap().remove(0);
    let streams = search.round(vec![line(vec![])]);
    let running = async {
        while house.handle.load().running == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, running).await.unwrap();
    drop((search, streams));
    house.empty().await;
}

#[tokio::test]
async fn stop_ends_streams_with_a_reason() {
    let house = House::new(SchedulerSettings::default());
    house.ready(1, description(), false).await;
    let stream = submit(&house, request(10, 300)).unwrap();
    house.handle.stop();
    assert_eq!(all(stream).await, [Err(StreamError::ShuttingDown)]);
}

#[tokio::test]
async fn a_stream_outlives_the_shard() {
    let house = House::new(SchedulerSettings::default());
    house.ready(1, description(), false).await;
    let stream = submit(&house, request(10, 5)).unwrap();
    let mut losses = house.handle.losses();
    house
        .events
        .send(ShardEvent::Lost {
            reason: "killed".into(),
        })
        .await
        .unwrap();
    house.until(EngineState::Recovering).await;
    timeout(SOON, losses.changed()).await.unwrap().unwrap();
    assert_eq!(
        *losses.borrow(),
        Some(Loss {
            generation: 1,
            suspects_running: false
        })
    );
    house.ready(2, description(), true).await;
    assert_eq!(all(stream).await.len(), 5);
}

#[tokio::test]
async fn a_hanging_step_is_reported_and_health_turns_within_a_second() {
    let step_timeout = Some(Duration::from_millis(200));
    let mut house = House::new(SchedulerSettings {
        step_timeout,
        ..SchedulerSettings::default()
    });
    house.ready(1, description(), false).await;
    let stream = submit(&house, request(10, 5)).unwrap();
    let step = timeout(Duration::from_millis(1200), house.hung.recv())
        .await
        .unwrap();
    assert_eq!(step, Some(1));
    assert_eq!(house.handle.state(), EngineState::Recovering);
    house
        .events
        .send(ShardEvent::Lost {
            reason: "replaced".into(),
        })
        .await
        .unwrap();
    house.ready(2, description(), true).await;
    assert_eq!(all(stream).await.len(), 5);
}

/// `cargo test -p ribbon-scheduler --release -- --ignored --nocapture tokens_per_second`: the router's own cost a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn tokens_per_second_with_an_instant_shard() {
    const STREAMS: u32 = 256;
    const TOKENS: u32 = 2_000;
    let limit = STREAMS + 1;
    let house = House::new(SchedulerSettings {
        max_concurrent_requests: limit,
        ..SchedulerSettings::default()
    });
    let mut wide = description();
    wide.max_batch_prefill_tokens = 4096;
    wide.max_total_tokens = 4096;
    let group = &mut wide.kv_groups[0];
    (group.num_slots, group.num_storages) = (limit + 1, limit + 1);
    (group.slot_tokens, group.num_pages) = (4096, 10_000_000);
    house.ready(1, wide, true).await;
    let began = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..STREAMS {
        let stream = submit(&house, request(32, TOKENS)).unwrap();
        readers.spawn(async move { stream.count().await });
    }
    let counts: Vec<usize> = timeout(SOON * 3, readers.join_all()).await.unwrap();
    let tokens: usize = counts.into_iter().sum();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(tokens, (STREAMS * TOKENS) as usize);
    let rate = tokens as f64 / seconds;
    tracing::info!(rate, "tokens a second");
    eprintln!(
        "{tokens} tokens in {seconds:.2} s: {rate:.0} tokens/s, {:.2} us a token",
        1e6 / rate
    );
}

#[test]
fn the_handle_is_an_engine() {
    fn engine(_: Arc<dyn Engine>) {}
    let (events, receiver) = mpsc::channel(1);
    drop(events);
    let shards = Box::new(Instantly { events: receiver });
    engine(Arc::new(
        SchedulerHandle::start(SchedulerSettings::default(), shards).0,
    ));
}
