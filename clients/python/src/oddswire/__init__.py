"""Publishes messages to an oddswire server, in batches, in order and without duplicates."""

from oddswire.async_publisher import AsyncPublisher
from oddswire.errors import (
    BroadcastError,
    DeliveryError,
    FlushTimeout,
    OddswireError,
    Problem,
    PublisherClosed,
    QueueFull,
    Refused,
    Undelivered,
)
from oddswire.message import Message
from oddswire.options import Options
from oddswire.publisher import Publisher
from oddswire.stats import Stats

__all__ = [
    "AsyncPublisher",
    "BroadcastError",
    "DeliveryError",
    "FlushTimeout",
    "Message",
    "OddswireError",
    "Options",
    "Problem",
    "Publisher",
    "PublisherClosed",
    "QueueFull",
    "Refused",
    "Stats",
    "Undelivered",
]
