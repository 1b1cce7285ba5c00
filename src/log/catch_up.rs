//! Catch-up: what brings a session from a cursor to the present, in bounded steps.
//!
//! Each subscription of the session has a span with a cursor of its own: everything up to it has been handed out or
//! counted as skipped. A step hands out the next messages of all spans, merged by position; the log moves on between
//! steps, so each step first sees whether what was announced still holds, and announces anew where it does not.
//!
//! Invariant: for a subscription to a whole topic, at the end of a catch-up, handed out plus announced as skipped is
//! what was published after the cursor.

use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::Log;
use super::topic_log::TopicLog;
use crate::message::{Message, Position, PositionError};
use crate::topic::Subscription;

/// Where a subscriber wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Since {
    /// With what is published from here on.
    #[default]
    Now,
    /// With the state as it is.
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

/// The text says no place to begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("since: {0}, or 'now' or 'snapshot'")]
pub struct SinceError(#[from] PositionError);

/// What a subscriber gets of what it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Every message.
    Replayed,
    /// The latest message of every key that changed, and every keyless message.
    Conflated,
    /// The whole state: it replaces what the client holds.
    Snapshot,
    /// Whatever is kept: keyless messages are lost.
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

/// What a catch-up is for: decides what is sent and what is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A client that was away: every message where the history reaches back to its cursor.
    Resume,
    /// A slow consumer: the latest of each key, since a superseded price is worth nothing.
    Slow,
    /// A window of `conflate_ms`: as for a slow consumer, and what was asked for needs no telling.
    Window,
}

/// The mode of one subscription, and how many messages it missed; `None` where that is unknowable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The subscription.
    pub subscription: Subscription,
    /// What it gets.
    pub mode: Mode,
    /// Messages published since its cursor that it does not get.
    pub skipped: Option<u64>,
}

/// A bound on one step.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits {
    /// Messages.
    pub messages: usize,
    /// Encoded bytes; the message that reaches it is the last.
    pub bytes: usize,
}

/// What a step hands out: first the announcements, then the messages in order of position.
#[derive(Debug, Default)]
pub struct Step {
    /// What has to be said before the messages.
    pub announcements: Vec<Announcement>,
    /// The messages.
    pub messages: Vec<Arc<Message>>,
    /// Whether nothing is left: the session is up to date.
    pub done: bool,
}

/// The progress of one session's catch-up.
#[derive(Debug)]
pub struct CatchUp {
    style: Style,
    spans: Vec<Span>,
}

/// Where a span's messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The history: every message.
    History,
    /// The state: what changed after the cursor.
    State,
    /// The state from its beginning. Deletions before `began` are no part of it: the client replaces what it holds.
    Image { began: u64 },
}

/// Where a span begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// After this offset of the present epoch.
    Offset(u64),
    /// With the state, for a client that holds nothing, or only part of an image; what it missed counts from here.
    Image(u64),
    /// At a position of another epoch, or one that this log has not reached.
    Unknown,
}

#[derive(Debug)]
struct Span {
    subscription: Subscription,
    from: From,
    /// Not asked for: only news that is worse than `replayed` is told.
    quiet: bool,
    /// Messages told as skipped by a plan that was given up; `None` once that is unknowable.
    told_before: Option<i64>,
    plan: Option<Plan>,
}

/// What was decided for a span, and how far it has come.
#[derive(Debug)]
struct Plan {
    source: Source,
    mode: Mode,
    cursor: u64,
    /// Keyless messages are handed out after this offset.
    keyless_from: u64,
    tally: Tally,
}

/// Counts what a span's client missed.
#[derive(Debug, Clone, Copy)]
struct Tally {
    /// Messages after this offset count.
    base: u64,
    handed_out: u64,
    /// Messages announced as skipped; `None` once that is unknowable.
    announced: Option<u64>,
}

impl CatchUp {
    /// A catch-up without a span.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self { style, spans: Vec::new() }
    }

    /// Adds a subscription that asked to begin at `since`, in place of an equal one.
    pub fn add(&mut self, subscription: Subscription, since: Since, log: &Log) {
        let (from, quiet) = match since {
            Since::Now => (From::Offset(log.last), true),
            Since::Snapshot => (From::Image(log.last), false),
            Since::Position(at) if at.epoch == log.epoch && at.offset <= log.last => (From::Offset(at.offset), false),
            Since::Position(_) => (From::Unknown, false),
        };
        self.push(subscription, from, quiet, log);
    }

    /// Adds a subscription that has everything up to the offset. `told` says whether its mode is told in any case.
    pub fn add_after(&mut self, subscription: Subscription, offset: u64, told: bool, log: &Log) {
        self.push(subscription, From::Offset(offset), !told, log);
    }

    fn push(&mut self, subscription: Subscription, from: From, quiet: bool, log: &Log) {
        let replaced = self.take(&subscription);
        if let Some(replaced) = &replaced
            && matches!(from, From::Image(_) | From::Unknown)
        {
            self.hand_over(replaced, log);
        }
        // Who has only part of an image gets a whole one, wherever it now asks to begin.
        let partial = replaced.is_some_and(|span| span.is_partial_image());
        let (from, quiet) = if partial { (From::Image(log.last), false) } else { (from, quiet) };
        self.spans.push(Span::new(subscription, from, quiet));
    }

    fn take(&mut self, subscription: &Subscription) -> Option<Span> {
        let at = self.spans.iter().position(|span| span.subscription == *subscription)?;
        Some(self.spans.remove(at))
    }

    /// Drops a subscription. Where the client has only part of its image, it has dropped what it held of overlapping
    /// ones for it: they get an image of their own. So they do where it is still to come.
    pub fn remove(&mut self, subscription: &Subscription, log: &Log) {
        let Some(gone) = self.take(subscription) else { return };
        if gone.cursor().is_some() && !gone.is_partial_image() {
            return self.hand_over(&gone, log);
        }
        for span in self.spans.iter_mut().filter(|span| span.subscription.overlaps(subscription)) {
            *span = Span::new(span.subscription.clone(), From::Image(log.last), false);
        }
    }

    /// What a span that goes has not come to is left to the overlapping ones that were to begin later: until now the
    /// client held their part through it. Rather a message too many than one that is missing.
    fn hand_over(&mut self, gone: &Span, log: &Log) {
        let Some(cursor) = gone.cursor() else { return };
        for span in self.spans.iter_mut().filter(|span| span.subscription.overlaps(&gone.subscription)) {
            span.begin_earlier(cursor, log);
        }
    }

    /// Lets the spans, none of which has begun, begin at these offsets at the latest: what was on its way to the client has
    /// been taken back.
    pub fn rewind(&mut self, begin: impl Fn(&Subscription) -> u64, log: &Log) {
        for span in &mut self.spans {
            span.begin_earlier(begin(&span.subscription), log);
        }
    }

    /// Goes on with another log than the one of that epoch, which it was planned on: from where each span has come to, if
    /// the position means something there.
    pub fn transfer(&mut self, epoch: u64, log: &Log) {
        for span in &mut self.spans {
            let from = match span.cursor() {
                Some(offset) if epoch == log.epoch && offset <= log.last && !span.is_partial_image() => {
                    From::Offset(offset)
                }
                Some(_) if !span.is_partial_image() => From::Unknown,
                _ => From::Image(log.last),
            };
            let quiet = span.quiet && matches!(from, From::Offset(_));
            // What was told as skipped cannot be counted on the new log.
            let told_before = span.told_before.filter(|_| span.plan.is_none());
            *span = Span { told_before, ..Span::new(span.subscription.clone(), from, quiet) };
        }
    }

    /// The offset that all subscriptions have come to.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.spans.iter().map(|span| span.cursor().unwrap_or(0)).min()
    }

    /// Begins anew where the log stands: everything before has been handed out.
    pub fn restart(&mut self, style: Style, log: &Log) {
        self.style = style;
        for span in &mut self.spans {
            *span = Span::new(span.subscription.clone(), From::Offset(log.last), true);
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

    /// Decides how a span goes on; tells what was not told yet.
    fn plan(&self, span: &mut Span, style: Style) -> Option<Announcement> {
        let topic = &self.topics[span.subscription.topic()];
        let (from, told_before) = match &span.plan {
            None => (span.from, span.told_before),
            Some(plan) if plan.holds(&span.subscription, topic) => return None,
            Some(plan) => {
                let cursor = plan.cursor.max(plan.tally.base);
                let from = if plan.is_partial_image() { From::Image(cursor) } else { From::Offset(cursor) };
                (from, plan.tally.surplus(&span.subscription, topic, cursor))
            }
        };
        // The history would bring messages after all that were told as skipped, and that cannot be taken back.
        let source = if told_before.is_some_and(|told| told > 0) { Style::Slow } else { style };
        let plan = self.decide(&span.subscription, from, source, topic);
        let skipped = plan.tally.announced.zip(told_before).and_then(|(now, before)| now.checked_sub_signed(before));
        let announcement = Announcement { subscription: span.subscription.clone(), mode: plan.mode, skipped };
        let told = !span.quiet || plan.mode > silent(style);
        span.plan = Some(plan);
        told.then_some(announcement)
    }

    fn decide(&self, subscription: &Subscription, from: From, style: Style, topic: &TopicLog) -> Plan {
        let image = Source::Image { began: self.last };
        let (source, base, cursor, keyless_from) = match from {
            From::Image(base) => (image, base, 0, base),
            From::Unknown if topic.is_keyless() => (Source::State, self.last, 0, 0),
            From::Unknown => (image, self.last, 0, self.last),
            From::Offset(at) if style == Style::Resume && topic.history_reaches(at) => (Source::History, at, at, at),
            From::Offset(at) if topic.tombstones_reach(at) => (Source::State, at, at, at),
            From::Offset(at) => (image, at, 0, at),
        };
        let tally = Tally { base, handed_out: 0, announced: None };
        let mut plan = Plan { source, mode: Mode::Replayed, cursor, keyless_from, tally };
        plan.tally.announced = match from {
            From::Unknown => None,
            _ if source == Source::History => Some(0),
            _ => plan.skipped(subscription, topic, self.last),
        };
        plan.mode = match source {
            Source::Image { .. } => Mode::Snapshot,
            Source::History => Mode::Replayed,
            Source::State if from == From::Unknown => Mode::Gap,
            Source::State if !keyless_reach(subscription, topic, base) => Mode::Gap,
            Source::State if style != Style::Resume && plan.tally.announced == Some(0) => Mode::Replayed,
            Source::State => Mode::Conflated,
        };
        plan
    }

    /// Merges the next messages of all spans into the step; returns the offset that is reached.
    fn collect(&self, spans: &[Span], limits: StepLimits, step: &mut Step) -> u64 {
        // One more than the step may hold tells whether anything is left.
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

    /// Moves a span to where the step came, and tells what turned out to be skipped beyond what was announced: messages
    /// that were superseded before their turn.
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
        // Not the mode of the whole: a second `snapshot` would tell the client to drop what it has just got.
        let kept = keyless_reach(&span.subscription, topic, plan.tally.base);
        let mode = if kept { Mode::Conflated } else { Mode::Gap };
        plan.mode = plan.mode.max(mode);
        let announcement = Announcement { subscription: span.subscription.clone(), mode, skipped };
        // Only what a window was asked to leave out goes without saying.
        (style != Style::Window || mode > Mode::Conflated).then_some(announcement)
    }
}

/// Whether every keyless message after the cursor that the subscription covers is still there.
fn keyless_reach(subscription: &Subscription, topic: &TopicLog, cursor: u64) -> bool {
    subscription.key().is_some() || topic.keyless_reach(cursor)
}

/// The worst mode that goes without saying for a subscription that did not ask for a catch-up.
fn silent(style: Style) -> Mode {
    match style {
        Style::Window => Mode::Conflated,
        Style::Resume | Style::Slow => Mode::Replayed,
    }
}

impl Span {
    fn new(subscription: Subscription, from: From, quiet: bool) -> Self {
        Self { subscription, from, quiet, told_before: Some(0), plan: None }
    }

    /// The offset that it has come to; `None` where it begins with the state and has not begun.
    fn cursor(&self) -> Option<u64> {
        match (&self.plan, self.from) {
            (Some(plan), _) => Some(plan.cursor),
            (None, From::Offset(offset)) => Some(offset),
            (None, From::Image(_) | From::Unknown) => None,
        }
    }

    /// Begins at an earlier offset, unless it has come beyond its beginning or begins with the state.
    fn begin_earlier(&mut self, offset: u64, log: &Log) {
        let From::Offset(begin) = self.from else { return };
        if begin <= offset || self.cursor() != Some(begin) {
            return;
        }
        if let Some(plan) = self.plan.take() {
            let topic = &log.topics[self.subscription.topic()];
            self.told_before = plan.tally.surplus(&self.subscription, topic, begin);
        }
        self.from = From::Offset(offset);
    }

    fn is_partial_image(&self) -> bool {
        self.plan.as_ref().is_some_and(Plan::is_partial_image)
    }
}

impl Plan {
    /// Whether the log can still give what was announced.
    fn holds(&self, subscription: &Subscription, topic: &TopicLog) -> bool {
        match self.source {
            Source::History => topic.history_reaches(self.cursor),
            Source::State => {
                let keyless = self.mode == Mode::Gap || keyless_reach(subscription, topic, self.cursor);
                keyless && topic.tombstones_reach(self.cursor)
            }
            // A deletion before the image began is none of its business, one that came since is.
            Source::Image { began } => topic.tombstones_reach(self.cursor.max(began)),
        }
    }

    /// Whether the client has only part of a state: what comes next cannot be built on it.
    fn is_partial_image(&self) -> bool {
        matches!(self.source, Source::Image { began } if self.cursor < began)
    }

    /// The span's next messages, at most `count`.
    fn next<'a>(&self, subscription: &'a Subscription, topic: &'a TopicLog, count: usize) -> Vec<&'a Arc<Message>> {
        match self.source {
            Source::History => return topic.replay(subscription, self.cursor).take(count).collect(),
            Source::State => return topic.latest(subscription, self.cursor, self.keyless_from, count),
            Source::Image { .. } => {}
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

    /// Whether a message of the state is part of what is sent: a deletion before an image began is not.
    fn hands_out(&self, message: &Message) -> bool {
        !matches!(self.source, Source::Image { began } if message.is_deletion() && message.offset() <= began)
    }

    /// How many messages from the tally's base to `last` the plan leaves out, as things stand.
    fn skipped(&self, subscription: &Subscription, topic: &TopicLog, last: u64) -> Option<u64> {
        let missed = topic.count(subscription, self.tally.base, last)?;
        let left =
            topic.count_latest(subscription, self.tally.base, self.keyless_from, |message| self.hands_out(message));
        missed.checked_sub(left)
    }

    /// Messages up to the cursor that were neither handed out nor announced as skipped, if there are any.
    fn missed(&self, subscription: &Subscription, topic: &TopicLog) -> Option<Missed> {
        let announced = self.tally.announced?;
        if self.source == Source::History || self.cursor <= self.tally.base {
            return None;
        }
        let Some(missed) = topic.count(subscription, self.tally.base, self.cursor) else {
            return Some(Missed::Unknowable);
        };
        let more = missed.saturating_sub(self.tally.handed_out + announced);
        (more > 0).then_some(Missed::Number(more))
    }
}

/// What turned out to be skipped.
enum Missed {
    Number(u64),
    /// The log no longer knows how many there were.
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

impl Tally {
    /// How many of the messages announced as skipped stand after the cursor; less than none where the log has dropped some
    /// before it since.
    fn surplus(&self, subscription: &Subscription, topic: &TopicLog, cursor: u64) -> Option<i64> {
        let skipped = topic.count(subscription, self.base, cursor)?.checked_sub(self.handed_out)?;
        self.announced?.checked_signed_diff(skipped)
    }
}
