//! Tests the log against a naive model, which applies the rules of a catch-up to a list of all published messages.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use self::world::{EPOCH, LogEvent, World, event, limits, topics};
use super::{Announcement, CatchUp, LogLimits, Mode, Since, Step, StepLimits, Style};
use crate::message::{Message, Position};
use crate::topic::{Key, Subscription, Topic};

/// A client: the state that it holds, and what the server sent in a catch-up.
#[derive(Default)]
struct CatchUpClient {
    state: BTreeMap<Key, Vec<u8>>,
    got: Vec<u64>,
    told: Vec<Announcement>,
}

impl CatchUpClient {
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
        self.told.iter().map(|announcement| announcement.mode).max().expect("a catch-up announces its mode")
    }

    fn skipped(&self) -> Option<u64> {
        self.told.iter().map(|announcement| announcement.skipped).sum()
    }
}

/// Runs a catch-up in steps of `size` messages, and calls `between` after each step except the last.
fn run(
    world: &mut World,
    catch_up: &mut CatchUp,
    client: &mut CatchUpClient,
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

/// Checks a client that held the state at `cursor` before its catch-up. `foreign` means that the server does not know
/// the client's position.
fn check(
    world: &World,
    client: &CatchUpClient,
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
        prop_assert!(!unknown || foreign, "only a narrowed subscription or a foreign position hides the count");
    }
    if client.mode() == Mode::Replayed {
        prop_assert_eq!(&client.got, &after, "mode replayed sends every message once and in order");
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
        prop_assert!(newest.is_none_or(|at| got.contains(&at)), "the newest keyless message is part of the state");
    }
    if client.mode() < Mode::Snapshot {
        let keyless = |m: &&Arc<Message>| m.key().is_none() && m.offset() > cursor && subscription.key().is_none();
        let all = world.of(subscription.topic()).filter(keyless).all(|message| got.contains(&message.offset()));
        prop_assert!(all, "only a snapshot or a gap may omit keyless messages");
    }
    Ok(())
}

/// The data of every key that a subscription covers.
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

/// A client that has received every message up to the cursor.
fn client_at(world: &World, subscription: &Subscription, cursor: u64) -> CatchUpClient {
    let mut client = CatchUpClient::default();
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

/// A change to a subscription.
#[derive(Debug, Clone, Copy)]
enum SubscriptionChange {
    Snapshot,
    Now,
    Drop,
}

impl SubscriptionChange {
    fn apply(
        self,
        subscription: Subscription,
        subscriptions: &mut BTreeSet<Subscription>,
        catch_up: &mut CatchUp,
        world: &World,
    ) {
        match self {
            Self::Snapshot => {
                catch_up.add(subscription.clone(), Since::Snapshot, &world.log);
                subscriptions.insert(subscription);
            }
            // If the client already holds this part of the state through a wider subscription, the part must stay
            // correct even after the client removes the wider subscription.
            Self::Now => {
                let is_held = subscriptions.iter().any(|held| is_within(&subscription, held));
                if is_held && subscriptions.insert(subscription.clone()) {
                    catch_up.add(subscription, Since::Now, &world.log);
                }
            }
            Self::Drop => {
                catch_up.remove(&subscription, &world.log);
                subscriptions.remove(&subscription);
            }
        }
    }
}

fn change() -> impl Strategy<Value = SubscriptionChange> {
    prop_oneof![
        1 => Just(SubscriptionChange::Snapshot),
        2 => Just(SubscriptionChange::Now),
        2 => Just(SubscriptionChange::Drop),
    ]
}

fn is_within(one: &Subscription, other: &Subscription) -> bool {
    one.topic() == other.topic() && other.key().is_none_or(|key| one.key().is_some_and(|one| one.is_within(key)))
}

fn style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![Style::Resume, Style::Slow])
}

proptest! {
    #[test]
    fn catch_up_from_any_cursor_agrees_with_the_model(
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
    fn client_cut_off_in_a_catch_up_resumes_at_its_last_message(
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
    fn snapshot_equals_the_state_despite_publishes_meanwhile(
        limits in limits(),
        events in vec(event(), 0..80),
        during in vec(event(), 0..30),
        subscription in subscription(),
        size in 1..8usize,
    ) {
        let mut world = World::after(limits, &events);
        let began = world.all.len() as u64;
        let mut client = CatchUpClient::default();
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add(subscription.clone(), Since::Snapshot, &world.log);
        let mut during = during.into_iter();
        run(&mut world, &mut catch_up, &mut client, size, |world| {
            for event in during.by_ref().take(2) {
                world.apply(&event);
            }
        });
        prop_assert_eq!(client.told[0].mode, Mode::Snapshot);
        prop_assert_eq!(client.told[0].skipped, Some(0), "a client that held nothing missed nothing");
        check(&world, &client, &subscription, began, false)?;
    }

    #[test]
    fn foreign_or_future_position_gets_a_snapshot_or_a_gap(
        limits in limits(),
        events in vec(event(), 0..60),
        subscription in subscription(),
        future: bool,
        size in 1..8usize,
    ) {
        let mut world = World::after(limits, &events);
        let last = world.all.len() as u64;
        let since = if future { Position { epoch: EPOCH, offset: last + 1 } } else { Position { epoch: 1, offset: 0 } };
        let mut client = CatchUpClient::default();
        let mut catch_up = CatchUp::new(Style::Resume);
        catch_up.add(subscription.clone(), Since::Position(since), &world.log);
        run(&mut world, &mut catch_up, &mut client, size, |_| {});
        let keyed = world.of(subscription.topic()).any(|message| message.key().is_some());
        let keyless = world.of(subscription.topic()).any(|message| message.key().is_none());
        prop_assert_eq!(client.mode(), if keyless && !keyed { Mode::Gap } else { Mode::Snapshot });
        prop_assert_eq!(client.skipped(), None, "the number of missed messages is unknown");
        check(&world, &client, &subscription, last, true)?;
    }

    #[test]
    fn overlapping_subscriptions_get_each_message_once_in_order(
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
        let mut client = CatchUpClient::default();
        run(&mut world, &mut catch_up, &mut client, size, |_| {});
        prop_assert!(client.got.is_sorted_by(|a, b| a < b), "{:?}", client.got);
    }

    #[test]
    fn subscriptions_can_change_in_the_middle_of_a_catch_up(
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
            if let Some((subscription, change)) = change {
                change.apply(subscription, &mut subscriptions, &mut catch_up, &world);
            }
        }
        for subscription in subscriptions {
            let held = client.covered(&subscription);
            prop_assert_eq!(held, state_of(&world, &subscription), "{}", subscription);
        }
    }

    #[test]
    fn history_state_and_tombstones_stay_within_their_limits(limits in limits(), events in vec(event(), 0..120)) {
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
fn narrower_subscription_gets_what_a_dropped_one_still_lacked() {
    let limits = LogLimits::default();
    let publish = |data| LogEvent::Publish { topic: 0, key: Some(1), data, lives: None };
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
