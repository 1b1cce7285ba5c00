//! Catch-up: brings a connection from its cursors to the present, in bounded steps.
//!
//! Each subscription of the connection has a span with its own cursor. Every message up to the cursor has been handed
//! out or counted as skipped. A step hands out the next messages of all spans, merged by position. The log changes
//! between steps. So each step first checks whether the log still has the messages that were announced. If not, the
//! step makes a new announcement.
//!
//! Invariant, for a subscription to a whole topic: every message published after the first cursor is either handed out
//! or announced as skipped.

use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::Log;
use super::topic_log::TopicLog;
use crate::message::{Message, Position, PositionError};
use crate::topic::Subscription;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Since {
    /// With messages published from now on.
    #[default]
    Now,
    /// With the current state.
    Snapshot,
    /// After this position.
    Position(Position),
}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        match text {
            "now" => Ok(Self::Now),
            "snapshot" => Ok(Self::Snapshot),
            _ => Ok(Self::Position(text.parse()?)),
        }
    }
}

/// A text that is not a valid `since`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("since: {0}, or 'now' or 'snapshot'")]
pub struct SinceError(#[from] PositionError);

/// How a client gets the messages that it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Every message.
    Replayed,
    /// The latest message of every key that changed, and every keyless message.
    Conflated,
    /// The whole state, which replaces what the client holds.
    Snapshot,
    /// The messages that the log still has. Keyless messages were lost.
    Gap,
}

impl Mode {
    /// The mode's name in `catch_up`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Conflated => "conflated",
            Self::Snapshot => "snapshot",
            Self::Gap => "gap",
        }
    }
}

/// The reason for a catch-up. It decides which messages are sent and what is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A client reconnects. It gets every message, if the history still has all messages after its cursor.
    Resume,
    /// A slow client. It gets the latest message of each key, because an outdated price is worth nothing.
    Slow,
    /// The end of a window of `conflate_ms`. The client gets the same messages as a slow client. Conflation is not
    /// announced, because the client asked for it.
    Window,
}

/// The mode of one subscription, for `catch_up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The subscription.
    pub subscription: Subscription,
    /// How the client gets the messages that it missed.
    pub mode: Mode,
    /// The number of messages after the subscription's cursor that the client does not get. `None` if the number is
    /// unknown.
    pub skipped: Option<u64>,
}

/// The bounds of one step.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits {
    /// The maximum number of messages.
    pub messages: usize,
    /// The number of encoded bytes that ends a step. The message that reaches it is the last one of the step.
    pub bytes: usize,
}

/// The result of a step. The announcements go before the messages, which are in order of position.
#[derive(Debug, Default)]
pub struct Step {
    /// Announcements, for a `catch_up` before the messages.
    pub announcements: Vec<Announcement>,
    /// The messages.
    pub messages: Vec<Arc<Message>>,
    /// Whether the connection is up to date after this step.
    pub done: bool,
}

/// The progress of one connection's catch-up.
#[derive(Debug)]
pub struct CatchUp {
    style: Style,
    spans: Vec<Span>,
}

/// Where the messages of a span come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpanSource {
    /// The history: every message.
    History,
    /// The state: the keys that changed after the cursor.
    State,
    /// The whole state, which replaces what the client holds. So deletions up to the offset `began`, at which the
    /// snapshot began, are left out.
    Image { began: u64 },
}

/// Where a span begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpanStart {
    /// After this offset of the log's epoch.
    Offset(u64),
    /// With the whole state, for a client that holds nothing, or only part of the state. Messages after this offset
    /// count as skipped if the client does not get them.
    Image(u64),
    /// At a position of another epoch, or at one that the log has not reached.
    Unknown,
}

#[derive(Debug)]
struct Span {
    subscription: Subscription,
    from: SpanStart,
    /// Whether the client did not ask for this catch-up. It is then announced only if messages are skipped or lost.
    quiet: bool,
    /// The number of messages after the beginning of the span that an abandoned plan already announced as skipped.
    /// `None` if the number is unknown.
    told_before: Option<i64>,
    plan: Option<Plan>,
}

/// How a span catches up, and how far it has come.
#[derive(Debug)]
struct Plan {
    source: SpanSource,
    mode: Mode,
    cursor: u64,
    /// Keyless messages after this offset are handed out.
    keyless_from: u64,
    tally: SpanTally,
}

/// Counts the messages that a span hands out and announces as skipped.
#[derive(Debug, Clone, Copy)]
struct SpanTally {
    /// Messages after this offset are counted.
    base: u64,
    handed_out: u64,
    /// The number of messages announced as skipped. `None` if it is unknown.
    announced: Option<u64>,
}

impl CatchUp {
    /// A catch-up without subscriptions.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self { style, spans: Vec::new() }
    }

    /// Adds a subscription that begins at `since`. Replaces an equal subscription.
    pub fn add(&mut self, subscription: Subscription, since: Since, log: &Log) {
        let (from, quiet) = match since {
            Since::Now => (SpanStart::Offset(log.last), true),
            Since::Snapshot => (SpanStart::Image(log.last), false),
            Since::Position(at) if at.epoch == log.epoch && at.offset <= log.last => {
                (SpanStart::Offset(at.offset), false)
            }
            Since::Position(_) => (SpanStart::Unknown, false),
        };
        self.push(subscription, from, quiet, log);
    }

    /// Adds a subscription whose client has every message up to the offset. With `told`, the mode is announced even if
    /// no message is skipped.
    pub fn add_after(&mut self, subscription: Subscription, offset: u64, told: bool, log: &Log) {
        self.push(subscription, SpanStart::Offset(offset), !told, log);
    }

    fn push(&mut self, subscription: Subscription, from: SpanStart, quiet: bool, log: &Log) {
        let replaced = self.take(&subscription);
        if let Some(replaced) = &replaced
            && matches!(from, SpanStart::Image(_) | SpanStart::Unknown)
        {
            self.hand_over(replaced, log);
        }
        // A client that has only part of the state gets the whole state, whatever `since` it asks for now.
        let partial = replaced.is_some_and(|span| span.is_partial_image());
        let (from, quiet) = if partial { (SpanStart::Image(log.last), false) } else { (from, quiet) };
        self.spans.push(Span::new(subscription, from, quiet));
    }

    fn take(&mut self, subscription: &Subscription) -> Option<Span> {
        let at = self.spans.iter().position(|span| span.subscription == *subscription)?;
        Some(self.spans.remove(at))
    }

    /// Removes a subscription. A client drops its data when a snapshot is announced. If the snapshot of the removed
    /// subscription is incomplete or has not begun, the client may lack data of overlapping subscriptions. So these get
    /// a snapshot, too.
    pub fn remove(&mut self, subscription: &Subscription, log: &Log) {
        let Some(gone) = self.take(subscription) else { return };
        if gone.cursor().is_some() && !gone.is_partial_image() {
            return self.hand_over(&gone, log);
        }
        for span in self.spans.iter_mut().filter(|span| span.subscription.overlaps(subscription)) {
            *span = Span::new(span.subscription.clone(), SpanStart::Image(log.last), false);
        }
    }

    /// Lets overlapping spans deliver the rest of a removed span. The client has the common part up to the cursor of
    /// the removed span, so spans that would begin later begin at that cursor. The client may get a message twice, but
    /// misses none.
    fn hand_over(&mut self, gone: &Span, log: &Log) {
        let Some(cursor) = gone.cursor() else { return };
        for span in self.spans.iter_mut().filter(|span| span.subscription.overlaps(&gone.subscription)) {
            span.begin_earlier(cursor, log);
        }
    }

    /// Makes each span begin at the offset that `begin` returns, if the span would begin later. The caller has taken
    /// messages back that were on their way to the client. No step has been handed out yet.
    pub(crate) fn rewind(&mut self, begin: impl Fn(&Subscription) -> u64, log: &Log) {
        for span in &mut self.spans {
            span.begin_earlier(begin(&span.subscription), log);
        }
    }

    /// Continues with another log. `epoch` is the epoch of the previous log. A span continues from its cursor if that
    /// position is valid in the new log.
    pub fn transfer(&mut self, epoch: u64, log: &Log) {
        for span in &mut self.spans {
            let from = match span.cursor() {
                Some(offset) if epoch == log.epoch && offset <= log.last && !span.is_partial_image() => {
                    SpanStart::Offset(offset)
                }
                Some(_) if !span.is_partial_image() => SpanStart::Unknown,
                _ => SpanStart::Image(log.last),
            };
            let quiet = span.quiet && matches!(from, SpanStart::Offset(_));
            // The new log cannot count the messages that a plan of the old log announced as skipped.
            let told_before = span.told_before.filter(|_| span.plan.is_none());
            *span = Span { told_before, ..Span::new(span.subscription.clone(), from, quiet) };
        }
    }

    /// The lowest cursor of all subscriptions.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.spans.iter().map(|span| span.cursor().unwrap_or(0)).min()
    }

    /// Starts the next window at the end of the log. Everything before has been handed out.
    pub fn restart(&mut self, style: Style, log: &Log) {
        self.style = style;
        for span in &mut self.spans {
            *span = Span::new(span.subscription.clone(), SpanStart::Offset(log.last), true);
        }
    }
}

impl Log {
    /// Hands out the next messages of a catch-up.
    #[must_use]
    pub fn step(&self, catch_up: &mut CatchUp, limits: StepLimits) -> Step {
        let style = catch_up.style;
        let mut step = Step::default();
        for span in &mut catch_up.spans {
            step.announcements.extend(self.plan(span, style));
        }
        let reached = self.collect(&catch_up.spans, limits, &mut step);
        for span in &mut catch_up.spans {
            if let Some(more) = self.settle(span, style, reached, &step.messages) {
                debug_assert!(step.announcements.iter().all(|told| told.subscription != more.subscription));
                step.announcements.push(more);
            }
        }
        step
    }

    /// Makes a plan for a span, unless the log can still carry out the present plan. Returns the announcement, if the
    /// client must get one.
    fn plan(&self, span: &mut Span, style: Style) -> Option<Announcement> {
        let topic = &self.topics[span.subscription.topic()];
        let (from, told_before) = match &span.plan {
            None => (span.from, span.told_before),
            Some(plan) if plan.holds(&span.subscription, topic) => return None,
            Some(plan) => {
                let cursor = plan.cursor.max(plan.tally.base);
                let from = if plan.is_partial_image() { SpanStart::Image(cursor) } else { SpanStart::Offset(cursor) };
                (from, plan.tally.surplus(&span.subscription, topic, cursor))
            }
        };
        // Do not replay the history if messages were announced as skipped: the replay would hand out some of these
        // messages after all.
        let source = if told_before.is_some_and(|told| told > 0) { Style::Slow } else { style };
        let plan = self.decide(&span.subscription, from, source, topic);
        let skipped = plan.tally.announced.zip(told_before).and_then(|(now, before)| now.checked_sub_signed(before));
        let announcement = Announcement { subscription: span.subscription.clone(), mode: plan.mode, skipped };
        let told = !span.quiet || plan.mode > silent(style);
        span.plan = Some(plan);
        told.then_some(announcement)
    }

    fn decide(&self, subscription: &Subscription, from: SpanStart, style: Style, topic: &TopicLog) -> Plan {
        let image = SpanSource::Image { began: self.last };
        let (source, base, cursor, keyless_from) = match from {
            SpanStart::Image(base) => (image, base, 0, base),
            SpanStart::Unknown if topic.is_keyless() => (SpanSource::State, self.last, 0, 0),
            SpanStart::Unknown => (image, self.last, 0, self.last),
            SpanStart::Offset(at) if style == Style::Resume && topic.history_reaches(at) => {
                (SpanSource::History, at, at, at)
            }
            SpanStart::Offset(at) if topic.tombstones_reach(at) => (SpanSource::State, at, at, at),
            SpanStart::Offset(at) => (image, at, 0, at),
        };
        let tally = SpanTally { base, handed_out: 0, announced: None };
        let mut plan = Plan { source, mode: Mode::Replayed, cursor, keyless_from, tally };
        plan.tally.announced = match from {
            SpanStart::Unknown => None,
            _ if source == SpanSource::History => Some(0),
            _ => plan.skipped(subscription, topic, self.last),
        };
        plan.mode = match source {
            SpanSource::Image { .. } => Mode::Snapshot,
            SpanSource::History => Mode::Replayed,
            SpanSource::State if from == SpanStart::Unknown => Mode::Gap,
            SpanSource::State if !keyless_reach(subscription, topic, base) => Mode::Gap,
            SpanSource::State if style != Style::Resume && plan.tally.announced == Some(0) => Mode::Replayed,
            SpanSource::State => Mode::Conflated,
        };
        plan
    }

    /// Merges the next messages of all spans into the step. Returns the offset that the step reaches.
    fn collect(&self, spans: &[Span], limits: StepLimits, step: &mut Step) -> u64 {
        // Look for one message more than the step may hold. If there is one, this step is not the last.
        let count = limits.messages.saturating_add(1);
        let mut next: Vec<&Arc<Message>> = Vec::new();
        for span in spans {
            let Some(plan) = &span.plan else { continue };
            next.extend(plan.next(&span.subscription, &self.topics[span.subscription.topic()], count));
        }
        if spans.len() > 1 {
            next.sort_by_key(|message| message.offset());
            next.dedup_by_key(|message| message.offset());
        }
        let total = next.len();
        let mut bytes = 0;
        for message in next.into_iter().take(limits.messages) {
            bytes += message.frames().size();
            step.messages.push(Arc::clone(message));
            if bytes >= limits.bytes {
                break;
            }
        }
        step.done = step.messages.len() == total;
        match step.messages.last() {
            Some(message) if !step.done => message.offset(),
            _ => self.last,
        }
    }

    /// Moves a span to the offset that the step has reached. Announces messages that were skipped since the last
    /// announcement, because newer messages superseded them before they were handed out.
    fn settle(&self, span: &mut Span, style: Style, reached: u64, handed: &[Arc<Message>]) -> Option<Announcement> {
        let topic = &self.topics[span.subscription.topic()];
        let plan = span.plan.as_mut()?;
        let counted = plan.cursor.max(plan.tally.base);
        let own = |message: &&Arc<Message>| {
            message.offset() > counted
                && message.topic() == span.subscription.topic()
                && span.subscription.covers(message.key())
        };
        plan.tally.handed_out += handed.iter().filter(own).count() as u64;
        plan.cursor = plan.cursor.max(reached);
        let missed = plan.missed(&span.subscription, topic)?;
        let skipped = missed.number();
        plan.tally.announced = plan.tally.announced.zip(skipped).map(|(before, more)| before + more);
        // Never announce `snapshot` here: the client would drop the messages that it has just got.
        let kept = keyless_reach(&span.subscription, topic, plan.tally.base);
        let mode = if kept { Mode::Conflated } else { Mode::Gap };
        plan.mode = plan.mode.max(mode);
        let announcement = Announcement { subscription: span.subscription.clone(), mode, skipped };
        // The client of a window asked for conflation: do not announce it.
        (style != Style::Window || mode > Mode::Conflated).then_some(announcement)
    }
}

/// Whether the log still has every keyless message of the subscription after the cursor.
fn keyless_reach(subscription: &Subscription, topic: &TopicLog, cursor: u64) -> bool {
    subscription.key().is_some() || topic.keyless_reach(cursor)
}

/// A quiet span announces only modes that are worse than this one, which are later in the order of [`Mode`].
fn silent(style: Style) -> Mode {
    match style {
        Style::Window => Mode::Conflated,
        Style::Resume | Style::Slow => Mode::Replayed,
    }
}

impl Span {
    fn new(subscription: Subscription, from: SpanStart, quiet: bool) -> Self {
        Self { subscription, from, quiet, told_before: Some(0), plan: None }
    }

    /// The offset up to which the span has come. `None` before the first step of a span that begins with the state.
    fn cursor(&self) -> Option<u64> {
        match (&self.plan, self.from) {
            (Some(plan), _) => Some(plan.cursor),
            (None, SpanStart::Offset(offset)) => Some(offset),
            (None, SpanStart::Image(_) | SpanStart::Unknown) => None,
        }
    }

    /// Moves the beginning of the span to an earlier offset, unless the span has handed out messages or begins with the
    /// state.
    fn begin_earlier(&mut self, offset: u64, log: &Log) {
        let SpanStart::Offset(begin) = self.from else { return };
        if begin <= offset || self.cursor() != Some(begin) {
            return;
        }
        if let Some(plan) = self.plan.take() {
            let topic = &log.topics[self.subscription.topic()];
            self.told_before = plan.tally.surplus(&self.subscription, topic, begin);
        }
        self.from = SpanStart::Offset(offset);
    }

    fn is_partial_image(&self) -> bool {
        self.plan.as_ref().is_some_and(Plan::is_partial_image)
    }
}

impl Plan {
    /// Whether the log can still give the messages that were announced.
    fn holds(&self, subscription: &Subscription, topic: &TopicLog) -> bool {
        match self.source {
            SpanSource::History => topic.history_reaches(self.cursor),
            SpanSource::State => {
                let keyless = self.mode == Mode::Gap || keyless_reach(subscription, topic, self.cursor);
                keyless && topic.tombstones_reach(self.cursor)
            }
            // Tombstones up to `began` are not needed, but later tombstones are.
            SpanSource::Image { began } => topic.tombstones_reach(self.cursor.max(began)),
        }
    }

    /// Whether the client has only part of the state, so that it cannot apply later messages yet.
    fn is_partial_image(&self) -> bool {
        matches!(self.source, SpanSource::Image { began } if self.cursor < began)
    }

    /// The next messages of the span, at most `count`.
    fn next<'a>(&self, subscription: &'a Subscription, topic: &'a TopicLog, count: usize) -> Vec<&'a Arc<Message>> {
        match self.source {
            SpanSource::History => return topic.replay(subscription, self.cursor).take(count).collect(),
            SpanSource::State => return topic.latest(subscription, self.cursor, self.keyless_from, count),
            SpanSource::Image { .. } => {}
        }
        let mut image: Vec<&Arc<Message>> = Vec::new();
        let mut cursor = self.cursor;
        loop {
            let next = topic.latest(subscription, cursor, self.keyless_from, count);
            let exhausted = next.len() < count;
            cursor = next.last().map_or(cursor, |message| message.offset());
            image.extend(next.into_iter().filter(|message| self.hands_out(message)));
            if exhausted || image.len() >= count {
                image.truncate(count);
                return image;
            }
        }
    }

    /// Whether a message of the state is handed out. Deletions up to the offset at which an image began are left out.
    fn hands_out(&self, message: &Message) -> bool {
        !matches!(self.source, SpanSource::Image { began } if message.is_deletion() && message.offset() <= began)
    }

    /// The number of messages after the tally's base and up to `last` that the plan leaves out, judged by the current
    /// state.
    fn skipped(&self, subscription: &Subscription, topic: &TopicLog, last: u64) -> Option<u64> {
        let missed = topic.count(subscription, self.tally.base, last)?;
        let left =
            topic.count_latest(subscription, self.tally.base, self.keyless_from, |message| self.hands_out(message));
        missed.checked_sub(left)
    }

    /// The number of messages up to the cursor that were neither handed out nor announced as skipped. `None` if there
    /// are no such messages.
    fn missed(&self, subscription: &Subscription, topic: &TopicLog) -> Option<Missed> {
        let announced = self.tally.announced?;
        if self.source == SpanSource::History || self.cursor <= self.tally.base {
            return None;
        }
        let Some(missed) = topic.count(subscription, self.tally.base, self.cursor) else {
            return Some(Missed::Unknowable);
        };
        let more = missed.saturating_sub(self.tally.handed_out + announced);
        (more > 0).then_some(Missed::Number(more))
    }
}

/// The number of messages that were skipped without an announcement.
enum Missed {
    Number(u64),
    /// The log no longer knows the number.
    Unknowable,
}

impl Missed {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Unknowable => None,
        }
    }
}

impl SpanTally {
    /// The number of messages announced as skipped that have offsets after the cursor. It is negative if more messages
    /// up to the cursor were skipped than announced.
    fn surplus(&self, subscription: &Subscription, topic: &TopicLog, cursor: u64) -> Option<i64> {
        let skipped = topic.count(subscription, self.base, cursor)?.checked_sub(self.handed_out)?;
        self.announced?.checked_signed_diff(skipped)
    }
}
