//! The log against a naive model: a plain list of everything that was ever published, and the rules applied to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{Announcement, CatchUp, Limits, Log, Mode, Since, Step, StepLimits, Style};
use crate::message::{Draft, Message, Payload, Position, Timestamp};
use crate::topic::{Key, Subscription, Topic, Topics};

const EPOCH: u64 = 1_763_849_000_000;

/// What can happen to a log.
#[derive(Debug, Clone)]
enum Event {
    Publish { topic: usize, key: Option<usize>, data: u8, lives: Option<u8> },
    Delete { topic: usize, key: usize },
    Tick { millis: u8 },
}

fn event() -> impl Strategy<Value = Event> {
    let publish = (0..2usize, prop::option::weighted(0.8, 0..6usize), 0..3u8, prop::option::weighted(0.2, 1..40u8));
    prop_oneof![
        8 => publish.prop_map(|(topic, key, data, lives)| {
            // Only a key's value can expire.
            Event::Publish { topic, key, data, lives: lives.filter(|_| key.is_some()) }
        }),
        2 => (0..2usize, 0..6usize).prop_map(|(topic, key)| Event::Delete { topic, key }),
        1 => (0..60u8).prop_map(|millis| Event::Tick { millis }),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..12usize, 200..3000usize, 10..200u64, 2..8usize, 10..100u64, any::<bool>()).prop_map(
        |(history_messages, history_bytes, history_age, state_keys, tombstone_age, suppress_unchanged)| Limits {
            history_messages,
            history_bytes,
            history_age: Duration::from_millis(history_age),
            state_keys,
            tombstone_age: Duration::from_millis(tombstone_age),
            suppress_unchanged,
        },
    )
}

fn topics() -> Topics {
    "odds,runs".parse().unwrap()
}

fn topic(at: usize) -> Topic {
    topics().iter().nth(at).unwrap().clone()
}

fn key(at: usize) -> Key {
    ["1", "1/a", "1/b", "2/a", "2/b/c", "10"][at].parse().unwrap()
}

/// Everything that was ever published, with the clock that it was published by.
struct World {
    log: Log,
    limits: Limits,
    now: i64,
    all: Vec<Arc<Message>>,
    /// What the publisher said last about the expiry of a key.
    expiries: BTreeMap<(Topic, Key), i64>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let log = Log::new(EPOCH, &topics(), limits.clone());
        Self { log, limits, now: 1000, all: Vec::new(), expiries: BTreeMap::new() }
    }

    fn after(limits: Limits, events: &[Event]) -> Self {
        let mut world = Self::new(limits);
        for event in events {
            world.apply(event);
        }
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Tick { millis } => {
                self.now += i64::from(*millis);
                let expired = self.log.tick(self.now(), usize::MAX);
                let due = self.expiries.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| id.clone());
                let due: BTreeSet<(Topic, Key)> = due.collect();
                let told = expired.iter().map(|draft| (draft.topic.clone(), draft.payload.key.clone().unwrap()));
                assert_eq!(told.collect::<BTreeSet<_>>(), due);
                for draft in &expired {
                    self.publish(draft);
                }
            }
            Event::Publish { topic: at, key: of, data, lives } => {
                let payload = Payload {
                    key: of.map(key),
                    kind: None,
                    data: RawValue::from_string(data.to_string()).unwrap(),
                    expires_at: lives.map(|millis| Timestamp::from_millis(self.now + i64::from(millis))),
                };
                self.publish(&Draft { topic: topic(*at), payload });
            }
            Event::Delete { topic: at, key: of } => {
                self.publish(&Draft { topic: topic(*at), payload: Payload::deletion(key(*of)) });
            }
        }
    }

    fn publish(&mut self, draft: &Draft) {
        let held = self.state(&draft.topic);
        let adds = draft.payload.key.as_ref().is_some_and(|key| !held.contains_key(key));
        let full = adds && !draft.payload.is_deletion() && held.len() >= self.limits.state_keys;
        assert_eq!(self.log.check(std::slice::from_ref(draft)).is_err(), full);
        if full {
            return;
        }
        let before = draft.payload.key.as_ref().map(|key| held.get(key).map(|message| message.data().to_vec()));
        // A deletion of what is not there changes nothing, whatever is still remembered of it.
        let says = (!draft.payload.is_deletion()).then(|| draft.payload.data.get().as_bytes().to_vec());
        let unchanged = self.limits.suppress_unchanged && before == Some(says);
        let appended = self.log.append(draft, self.now());
        assert_eq!(appended.is_none(), unchanged);
        if let Some(key) = draft.payload.key.clone() {
            let id = (draft.topic.clone(), key);
            match draft.payload.expires_at {
                Some(at) => self.expiries.insert(id, at.as_millis()),
                None => self.expiries.remove(&id),
            };
        }
        if let Some(message) = appended {
            assert_eq!(message.offset(), self.all.len() as u64 + 1, "one dense sequence");
            self.all.push(message);
        }
    }

    fn of(&self, topic: &Topic) -> impl DoubleEndedIterator<Item = &Arc<Message>> {
        self.all.iter().filter(move |message| message.topic() == topic)
    }

    /// The value of each key, by replaying everything.
    fn state(&self, topic: &Topic) -> BTreeMap<Key, Arc<Message>> {
        let mut state = BTreeMap::new();
        for message in self.of(topic) {
            match message.key() {
                Some(key) if message.is_deletion() => drop(state.remove(key)),
                Some(key) => drop(state.insert(key.clone(), Arc::clone(message))),
                None => {}
            }
        }
        state
    }
}

/// What a client makes of a catch-up, and what it was told.
#[derive(Default)]
struct Client {
    state: BTreeMap<Key, Vec<u8>>,
    got: Vec<u64>,
    told: Vec<Announcement>,
}

impl Client {
    fn take(&mut self, step: &Step) {
        for announcement in &step.announcements {
            if announcement.mode == Mode::Snapshot {
                self.state.clear();
            }
            self.told.push(announcement.clone());
        }
        for message in &step.messages {
            self.got.push(message.offset());
            if let Some(key) = message.key() {
                if message.is_deletion() {
                    self.state.remove(key);
                } else {
                    self.state.insert(key.clone(), message.data().to_vec());
                }
            }
        }
    }

    fn mode(&self) -> Mode {
        self.told.iter().map(|announcement| announcement.mode).max().expect("a catch-up is told")
    }

    fn skipped(&self) -> Option<u64> {
        self.told.iter().map(|announcement| announcement.skipped).sum()
    }
}

/// Runs a catch-up in steps of `size`; `between` happens between them.
fn run(
    world: &mut World,
    catch_up: &mut CatchUp,
    client: &mut Client,
    size: usize,
    mut between: impl FnMut(&mut World),
) {
    loop {
        let step = world.log.step(catch_up, StepLimits { messages: size, bytes: 1 << 20 });
        assert!(step.messages.len() <= size);
        client.take(&step);
        if step.done {
            return;
        }
        between(world);
    }
}

/// Checks a client that began after `cursor` and held the state of that moment; `foreign` where the server could not
/// know that.
fn check(
    world: &World,
    client: &Client,
    subscription: &Subscription,
    cursor: u64,
    foreign: bool,
) -> Result<(), TestCaseError> {
    let covered = |message: &&Arc<Message>| subscription.covers(message.key());
    let after: Vec<u64> =
        world.of(subscription.topic()).filter(covered).map(|m| m.offset()).filter(|at| *at > cursor).collect();
    let got: BTreeSet<u64> = client.got.iter().copied().filter(|at| *at > cursor).collect();
    let missed = after.iter().filter(|at| !got.contains(at)).count() as u64;
    if let Some(skipped) = client.skipped() {
        prop_assert_eq!(skipped, missed, "got {:?} of {:?}, told {:?}", &client.got, &after, &client.told);
    } else {
        let unknown = client.told.iter().any(|told| told.skipped.is_none() && told.subscription.key().is_none());
        prop_assert!(!unknown || foreign, "only a narrowed subscription or a foreign position makes it unknowable");
    }
    if client.mode() == Mode::Replayed {
        prop_assert_eq!(&client.got, &after, "replayed is every message, once, in order");
    }
    let holds: BTreeMap<Key, Vec<u8>> = world
        .state(subscription.topic())
        .into_iter()
        .filter(|(key, _)| subscription.covers(Some(key)))
        .map(|(key, message)| (key, message.data().to_vec()))
        .collect();
    prop_assert_eq!(&client.state, &holds, "{:?}", &client.told);
    if subscription.key().is_none() {
        let newest = world.of(subscription.topic()).rfind(|message| message.key().is_none());
        let newest = newest.map(|message| message.offset()).filter(|at| *at > cursor);
        prop_assert!(newest.is_none_or(|at| got.contains(&at)), "the newest keyless message belongs to the state");
    }
    if client.mode() < Mode::Snapshot {
        let keyless = |m: &&Arc<Message>| m.key().is_none() && m.offset() > cursor && subscription.key().is_none();
        let all = world.of(subscription.topic()).filter(keyless).all(|message| got.contains(&message.offset()));
        prop_assert!(all, "keyless messages all come, unless a gap is told");
    }
    Ok(())
}

/// The state of all that a subscription covers.
fn state_of(world: &World, subscription: &Subscription) -> BTreeMap<(Topic, Key), Vec<u8>> {
    let topic = subscription.topic();
    let state = world.state(topic).into_iter().filter(|(key, _)| subscription.covers(Some(key)));
    state.map(|(key, message)| ((topic.clone(), key), message.data().to_vec())).collect()
}

/// A client with several subscriptions, which may overlap.
#[derive(Default)]
struct Overlapping(BTreeMap<(Topic, Key), Vec<u8>>);

impl Overlapping {
    fn hold(&mut self, world: &World, subscription: &Subscription) {
        self.0.extend(state_of(world, subscription));
    }

    fn covered(&self, subscription: &Subscription) -> BTreeMap<(Topic, Key), Vec<u8>> {
        let covers = |topic: &Topic, key: &Key| topic == subscription.topic() && subscription.covers(Some(key));
        self.0
            .iter()
            .filter(|((topic, key), _)| covers(topic, key))
            .map(|(id, data)| (id.clone(), data.clone()))
            .collect()
    }

    fn take(&mut self, step: &Step) {
        for told in step.announcements.iter().filter(|told| told.mode == Mode::Snapshot) {
            for id in self.covered(&told.subscription).into_keys() {
                self.0.remove(&id);
            }
        }
        for message in &step.messages {
            let Some(key) = message.key() else { continue };
            let id = (message.topic().clone(), key.clone());
            if message.is_deletion() {
                self.0.remove(&id);
            } else {
                self.0.insert(id, message.data().to_vec());
            }
        }
    }
}

/// The state that a client would hold who had seen everything up to the cursor.
fn client_at(world: &World, subscription: &Subscription, cursor: u64) -> Client {
    let mut client = Client::default();
    for message in world.of(subscription.topic()).filter(|m| m.offset() <= cursor && subscription.covers(m.key())) {
        let step = Step { messages: vec![Arc::clone(message)], ..Step::default() };
        client.take(&step);
    }
    client.got.clear();
    client
}

fn subscription() -> impl Strategy<Value = Subscription> {
    prop::sample::select(vec!["odds", "runs", "odds/1", "odds/2", "odds/2/b", "odds/3", "runs/1/a"])
        .prop_map(|text| text.parse().unwrap())
}

/// What becomes of a subscription.
#[derive(Debug, Clone, Copy)]
enum Change {
    Snapshot,
    Now,
    Drop,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![1 => Just(Change::Snapshot), 2 => Just(Change::Now), 2 => Just(Change::Drop)]
}

fn is_within(one: &Subscription, other: &Subscription) -> bool {
    one.topic() == other.topic() && other.key().is_none_or(|key| one.key().is_some_and(|one| one.is_within(key)))
}

fn style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![Style::Resume, Style::Slow])
}

proptest! {
    #[test]
    fn catch_up_from_any_cursor_is_what_the_model_says(
        limits in limits(),
        events in vec(event(), 0..80),
        during in vec(event(), 0..30),
        subscription in subscription(),
        style in style(),
        cursor: prop::sample::Index,
        size in 1..8usize,
    ) {
        let mut world = World::after(limits, &events);
        let cursor = cursor.index(world.all.len() + 1) as u64;
        let mut client = client_at(&world, &subscription, cursor);
        let mut catch_up = CatchUp::new(style);
        catch_up.add(subscription.clone(), Since::Position(Position { epoch: EPOCH, offset: cursor }), &world.log);
        let mut during = during.into_iter();
        run(&mut world, &mut catch_up, &mut client, size, |world| {
            for event in during.by_ref().take(2) {
                world.apply(&event);
            }
        });
        check(&world, &client, &subscription, cursor, false)?;
    }

    #[test]
    fn who_is_cut_off_anywhere_in_a_catch_up_resumes_from_the_last_message_that_it_got(
        limits in limits(),
        events in vec(event(), 0..80),
        during in vec(event(), 0..30),
        style in style(),
        cursor: prop::sample::Index,
        size in 1..8usize,
        cut in prop_oneof![Just(0), 0..40usize],
    ) {
        let mut world = World::after(limits, &events);
        let whole: Subscription = "odds".parse().unwrap();
        let mut cursor = cursor.index(world.all.len() + 1) as u64;
        let mut client = client_at(&world, &whole, cursor);
        let since = |offset| Since::Position(Position { epoch: EPOCH, offset });
        let mut catch_up = CatchUp::new(style);
        catch_up.add(whole.clone(), since(cursor), &world.log);
        let (mut during, mut left) = (during.into_iter(), cut);
        loop {
            let mut step = world.log.step(&mut catch_up, StepLimits { messages: size, bytes: 1 << 20 });
            let cut = left < step.messages.len();
            step.messages.truncate(left);
            left -= step.messages.len();
            client.take(&step);
            cursor = step.messages.last().map_or(cursor, |message| message.offset());
            if cut || step.done {
                break;
            }
            for event in during.by_ref().take(3) {
                world.apply(&event);
            }
        }
        for event in during {
            world.apply(&event);
        }
        let mut again = CatchUp::new(Style::Resume);
        again.add(whole.clone(), since(cursor), &world.log);
        run(&mut world, &mut again, &mut client, size, |_| {});
        let held = client.state.into_iter().map(|(key, data)| ((whole.topic().clone(), key), data));
        prop_assert_eq!(held.collect::<BTreeMap<_, _>>(), state_of(&world, &whole), "{:?}", client.told);
    }

    #[test]
    fn a_snapshot_is_the_state_whatever_happens_while_it_is_sent(
        limits in limits(),
        events in vec(event(), 0..80),
        during in vec(event(), 0..30),
        subscription in subscription(),
        size in 1..8usize,
    ) {
        let mut world = World::after(limits, &events);
        let began = world.all.len() as u64;
        let mut client = Client::default();
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add(subscription.clone(), Since::Snapshot, &world.log);
        let mut during = during.into_iter();
        run(&mut world, &mut catch_up, &mut client, size, |world| {
            for event in during.by_ref().take(2) {
                world.apply(&event);
            }
        });
        prop_assert_eq!(client.told[0].mode, Mode::Snapshot);
        prop_assert_eq!(client.told[0].skipped, Some(0), "who held nothing missed nothing");
        check(&world, &client, &subscription, began, false)?;
    }

    #[test]
    fn a_position_of_another_epoch_or_of_the_future_is_a_snapshot_or_a_gap(
        limits in limits(),
        events in vec(event(), 0..60),
        subscription in subscription(),
        future: bool,
        size in 1..8usize,
    ) {
        let mut world = World::after(limits, &events);
        let last = world.all.len() as u64;
        let since = if future { Position { epoch: EPOCH, offset: last + 1 } } else { Position { epoch: 1, offset: 0 } };
        let mut client = Client::default();
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add(subscription.clone(), Since::Position(since), &world.log);
        run(&mut world, &mut catch_up, &mut client, size, |_| {});
        let keyed = world.of(subscription.topic()).any(|message| message.key().is_some());
        let keyless = world.of(subscription.topic()).any(|message| message.key().is_none());
        prop_assert_eq!(client.mode(), if keyless && !keyed { Mode::Gap } else { Mode::Snapshot });
        prop_assert_eq!(client.skipped(), None, "how much was missed is unknowable");
        check(&world, &client, &subscription, last, true)?;
    }

    #[test]
    fn spans_of_one_session_are_merged_by_position_without_duplicates(
        limits in limits(),
        events in vec(event(), 0..80),
        cursor: prop::sample::Index,
        size in 1..8usize,
    ) {
        let mut world = World::after(limits, &events);
        let cursor = cursor.index(world.all.len() + 1) as u64;
        let mut catch_up = CatchUp::new(Style::Resume);
        for text in ["odds", "odds/1", "runs"] {
            let since = Since::Position(Position { epoch: EPOCH, offset: cursor });
            catch_up.add(text.parse().unwrap(), since, &world.log);
        }
        let mut client = Client::default();
        run(&mut world, &mut catch_up, &mut client, size, |_| {});
        prop_assert!(client.got.is_sorted_by(|a, b| a < b), "{:?}", client.got);
    }

    #[test]
    fn subscriptions_may_come_and_go_in_the_middle_of_a_catch_up(
        limits in limits(),
        events in vec(event(), 0..60),
        during in vec((vec(event(), 0..6), prop::option::of((subscription(), change()))), 1..16),
        held in prop::sample::select(vec!["odds", "odds/1"]),
        size in 1..4usize,
    ) {
        let mut world = World::after(limits, &events);
        let last = world.all.len() as u64;
        let held: Subscription = held.parse().unwrap();
        let mut subscriptions = BTreeSet::from([held.clone()]);
        let mut client = Overlapping::default();
        client.hold(&world, &held);
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add_after(held, last, false, &world.log);
        let mut during = during.into_iter();
        loop {
            let step = world.log.step(&mut catch_up, StepLimits { messages: size, bytes: 1 << 20 });
            client.take(&step);
            let Some((events, change)) = during.next() else {
                if step.done {
                    break;
                }
                continue;
            };
            for event in &events {
                world.apply(event);
            }
            match change {
                Some((subscription, Change::Snapshot)) => {
                    catch_up.add(subscription.clone(), Since::Snapshot, &world.log);
                    subscriptions.insert(subscription);
                }
                // What it covers is held already: it stays right, whatever becomes of the wider one.
                Some((subscription, Change::Now)) if subscriptions.iter().any(|held| is_within(&subscription, held)) => {
                    if subscriptions.insert(subscription.clone()) {
                        catch_up.add(subscription, Since::Now, &world.log);
                    }
                }
                Some((subscription, Change::Drop)) => {
                    catch_up.remove(&subscription, &world.log);
                    subscriptions.remove(&subscription);
                }
                Some((_, Change::Now)) | None => {}
            }
        }
        for subscription in subscriptions {
            let held = client.covered(&subscription);
            prop_assert_eq!(held, state_of(&world, &subscription), "{}", subscription);
        }
    }

    #[test]
    fn what_is_kept_is_within_its_bounds(limits in limits(), events in vec(event(), 0..120)) {
        let mut world = World::new(limits.clone());
        for event in &events {
            world.apply(event);
            for topic in topics().iter() {
                let stats = world.log.stats(topic);
                prop_assert!(stats.history <= limits.history_messages);
                prop_assert!(stats.keys <= limits.state_keys);
                prop_assert!(stats.tombstones <= limits.state_keys.max(stats.history));
                prop_assert_eq!(stats.keys, world.state(topic).len());
            }
        }
    }
}

#[test]
fn what_a_dropped_subscription_had_not_come_to_goes_to_a_later_one_within_it() {
    let limits = Limits::default();
    let publish = |data| Event::Publish { topic: 0, key: Some(1), data, lives: None };
    let mut world = World::after(limits, &[publish(0)]);
    let [wide, narrow]: [Subscription; 2] = ["odds", "odds/1"].map(|text| text.parse().unwrap());
    let mut catch_up = CatchUp::new(Style::Slow);
    catch_up.add_after(wide.clone(), 1, true, &world.log);
    world.apply(&publish(1));
    catch_up.add(narrow, Since::Now, &world.log);
    catch_up.remove(&wide, &world.log);
    let step = world.log.step(&mut catch_up, StepLimits { messages: 10, bytes: 1 << 20 });
    let came: Vec<u64> = step.messages.iter().map(|message| message.offset()).collect();
    assert_eq!(came, [2]);
}
