//! Tests the manager with clients that read at random times and change their subscriptions, under a budget that is far
//! too small. In the end, each client must hold every state that the server promised to it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::to_raw_value;
use slog::{Discard, Logger, o};

use super::{Connect, Connection, ConnectionManager, ManagerLimits};
use crate::log::{self, Log, Since};
use crate::message::{Message, Payload};
use crate::outbox::{self, Outgoing, Receiver};
use crate::topic::{Key, Subscription, Topic};

const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Publish { key: usize, data: Option<u8>, times: usize },
    Subscribe { client: usize, subscription: Subscription, snapshot: bool },
    Unsubscribe { client: usize, subscription: Subscription },
    Read { client: usize, items: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let subscription = || {
        let texts = vec!["odds", "odds/1", "odds/1/a", "odds/2"];
        prop::sample::select(texts).prop_map(|text| text.parse::<Subscription>().unwrap())
    };
    let publish = (0..5usize, prop::option::weighted(0.9, any::<u8>()), 1..6usize);
    prop_oneof![
        6 => publish.prop_map(|(key, data, times)| Op::Publish { key, data, times }),
        2 => (0..CLIENTS, subscription(), prop::bool::weighted(0.3))
            .prop_map(|(client, subscription, snapshot)| Op::Subscribe { client, subscription, snapshot }),
        1 => (0..CLIENTS, subscription()).prop_map(|(client, subscription)| Op::Unsubscribe { client, subscription }),
        2 => (0..CLIENTS, 1..6usize).prop_map(|(client, items)| Op::Read { client, items }),
    ]
}

/// An event of a client whose messages are conflated in windows.
#[derive(Debug, Clone)]
enum WindowOp {
    Publish(usize),
    Broadcast,
    EndWindow,
    Read,
}

fn window_op() -> impl Strategy<Value = WindowOp> {
    prop_oneof![
        2 => (0..200usize).prop_map(WindowOp::Publish),
        1 => Just(WindowOp::Broadcast),
        4 => Just(WindowOp::EndWindow),
        4 => Just(WindowOp::Read),
    ]
}

fn key(at: usize) -> Key {
    ["1", "1/a", "1/b", "2/a", "3"][at].parse().unwrap()
}

fn is_within(one: &Subscription, other: &Subscription) -> bool {
    other.key().is_none_or(|other| one.key().is_some_and(|one| one.is_within(other)))
}

struct ModelClient {
    connection: Connection,
    receiver: Receiver,
    state: BTreeMap<Key, Vec<u8>>,
    /// Subscriptions whose state the server promised: from the beginning, by a snapshot, or through a wider
    /// subscription.
    promised: BTreeSet<Subscription>,
}

impl ModelClient {
    fn connect(manager: &ConnectionManager) -> Self {
        let all: Subscription = "odds".parse().unwrap();
        let (connection, receiver) = manager.connect(Connect::to(vec![all.clone()]));
        Self { connection, receiver, state: BTreeMap::new(), promised: BTreeSet::from([all]) }
    }

    fn subscribe(&mut self, subscription: &Subscription, snapshot: bool) {
        let held = self.connection.subscriptions().contains(subscription);
        if snapshot || (!held && self.promised.iter().any(|promised| is_within(subscription, promised))) {
            self.promised.insert(subscription.clone());
        }
        let since = if snapshot { Since::Snapshot } else { Since::Now };
        self.connection.subscribe(vec![subscription.clone()], since).unwrap();
    }

    fn unsubscribe(&mut self, subscription: &Subscription) {
        self.promised.remove(subscription);
        self.connection.unsubscribe(std::slice::from_ref(subscription));
    }

    /// Reads one item, as a writer would send it. Returns `false` if there is none.
    fn read(&mut self) -> bool {
        let Some(item) = self.receiver.try_recv() else { return false };
        self.receiver.settle(outbox::size(&item));
        match &item {
            Outgoing::Message(message) | Outgoing::Missed(message) => self.apply(message),
            Outgoing::Control(frames) => {
                let frame = frames.websocket();
                let json = &frame[frame.windows(2).position(|bytes| bytes == b"{\"").unwrap()..];
                self.told(&serde_json::from_slice(json).unwrap());
            }
            Outgoing::Refill => {
                self.receiver.give_back();
                self.connection.manager().refill(self.connection.id());
            }
            Outgoing::Close(_) => unreachable!("no connection is closed in this test"),
        }
        true
    }

    fn apply(&mut self, message: &Message) {
        let key = message.key().unwrap().clone();
        if message.is_deletion() {
            self.state.remove(&key);
        } else {
            self.state.insert(key, message.data().to_vec());
        }
    }

    fn told(&mut self, control: &Value) {
        if control["type"] != "catch_up" {
            return;
        }
        for (subscription, told) in control["data"]["topics"].as_object().unwrap() {
            if told["mode"] == "snapshot" {
                let subscription: Subscription = subscription.parse().unwrap();
                self.state.retain(|key, _| !subscription.covers(Some(key)));
            }
        }
    }
}

/// The server's data of every key that the subscription covers.
fn state(manager: &ConnectionManager, subscription: &Subscription) -> BTreeMap<Key, Vec<u8>> {
    let (_, messages) = manager.snapshot(subscription);
    messages.iter().map(|message| (message.key().unwrap().clone(), message.data().to_vec())).collect()
}

proptest! {
    #[test]
    fn client_holds_every_promised_state_in_the_end(
        ops in vec(op(), 1..60),
        outbox_bytes in prop::sample::select(vec![1200usize, 4000]),
        history_messages in 0..20usize,
    ) {
        let topic: Topic = "odds".parse().unwrap();
        let limits = log::LogLimits { history_messages, ..log::LogLimits::default() };
        let log = Log::new(1, &topic.to_string().parse().unwrap(), limits);
        let limits = ManagerLimits { outbox_bytes, memory_budget: 4000, ..ManagerLimits::default() };
        let logger = Logger::root(Discard, o!());
        let manager = ConnectionManager::new(topic.to_string().parse().unwrap(), log, limits, logger);
        let mut clients: Vec<ModelClient> = (0..CLIENTS).map(|_| ModelClient::connect(&manager)).collect();
        for op in ops {
            match op {
                Op::Publish { key: of, data, times } => for time in 0..times {
                    let payload = match data {
                        Some(data) => Payload::keyed(key(of), to_raw_value(&(data, time)).unwrap()),
                        None => Payload::deletion(key(of)),
                    };
                    manager.broadcast(payload, &topic).unwrap();
                },
                Op::Subscribe { client, subscription, snapshot } => clients[client].subscribe(&subscription, snapshot),
                Op::Unsubscribe { client, subscription } => clients[client].unsubscribe(&subscription),
                Op::Read { client, items } => for _ in 0..items {
                    clients[client].read();
                },
            }
        }
        for client in &mut clients {
            while client.read() {}
            for promised in &client.promised {
                let holds: BTreeMap<Key, Vec<u8>> = client.state.iter()
                    .filter(|(key, _)| promised.covers(Some(key)))
                    .map(|(key, data)| (key.clone(), data.clone()))
                    .collect();
                prop_assert_eq!(holds, state(&manager, promised), "{}", promised);
            }
        }
        drop(clients);
        prop_assert_eq!(manager.load().outbox_bytes, 0, "all outbox bytes are released");
    }

    #[test]
    fn windows_never_queue_more_than_the_limit_and_one_step(
        ops in vec(window_op(), 1..80),
        outbox_bytes in prop::sample::select(vec![1200usize, 4000]),
    ) {
        let topic: Topic = "odds".parse().unwrap();
        let limits = ManagerLimits { outbox_bytes, ..ManagerLimits::default() };
        let log = Log::new(1, &topic.to_string().parse().unwrap(), log::LogLimits::default());
        let logger = Logger::root(Discard, o!());
        let manager = ConnectionManager::new(topic.to_string().parse().unwrap(), log, limits, logger);
        let publish = |key: usize, data: u32| {
            let key = format!("{key}").parse().unwrap();
            manager.broadcast(Payload::keyed(key, to_raw_value(&data).unwrap()), &topic).unwrap();
        };
        (0..200).for_each(|key| publish(key, 0));
        let conflate = Some(std::time::Duration::from_millis(1));
        let wanted = Connect { since: Since::Snapshot, conflate, ..Connect::all() };
        let (connection, receiver) = manager.connect(wanted);
        let mut client = ModelClient { connection, receiver, state: BTreeMap::new(), promised: BTreeSet::new() };
        // The maximum number of queued bytes: the limit of the outbox, and one catch-up step, which has the same limit.
        // The last message of the step and control messages may exceed the limits, by at most 600 bytes.
        let most = outbox_bytes + outbox_bytes + 600;
        for (number, op) in ops.into_iter().enumerate() {
            match op {
                WindowOp::Publish(key) => publish(key, u32::try_from(number).unwrap() + 1),
                WindowOp::Broadcast => {
                    manager.broadcast_all(crate::message::Frames::json(b"{\"type\":\"notice\"}", None));
                }
                WindowOp::EndWindow => manager.end_window(client.connection.id()),
                WindowOp::Read => drop(client.read()),
            }
            let queued = client.connection.outbox().queued();
            prop_assert!(queued <= most, "{} bytes are queued, {} may be", queued, most);
        }
        while client.read() {}
        manager.end_window(client.connection.id());
        while client.read() {}
        prop_assert_eq!(&client.state, &state(&manager, &"odds".parse().unwrap()));
    }
}
