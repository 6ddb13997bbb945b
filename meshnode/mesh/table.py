"""The Kademlia routing table: whom this node knows, sorted by distance. It pings nobody and reads no clock.

Built on the `kademlia` package's RoutingTable, KBucket and Node; what is overridden here mends what does not
fit a mesh of authenticated links under trio: it reads the real clock, starts asyncio tasks, finds neighbours
that are not the nearest, compares nodes by address, and promotes contacts that nobody has ever reached.
"""

# The package has no types; its calls are the only ones here that are not checked.
# mypy: allow-untyped-calls

from collections.abc import Callable, Iterator
from itertools import chain
from typing import cast

from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from meshnode.mesh import keyspace
from meshwire.ids import NodeId
from meshwire.limits import DHT_GROUP_PER_BUCKET, DHT_GROUP_PER_TABLE, DHT_K

LONELY_S = 3600.0
KEYSPACE_TOP = 2**160
REPLACEMENTS_PER_CONTACT = 5

Clock = Callable[[], float]


class Contact(Node):
    """A node by its id alone; `verified` says that it has answered us, over a link that proved its key.

    `group` is its address group, empty for none (see `mesh.diversity`).
    """

    def __init__(self, node: bytes, *, verified: bool = False, group: str = "") -> None:
        super().__init__(node)
        self.id: NodeId
        self.verified = verified
        self.group = group

    def same_home_as(self, node: Node) -> bool:
        """Whether both are the same node; addresses say nothing, relayed nodes have none."""
        return bool(self.id == node.id)


class Bucket(KBucket):
    """A k-bucket in which only verified contacts have a place; the others wait as replacements."""

    def __init__(self, low: int, high: int, size: int, clock: Clock) -> None:
        self.clock = clock
        super().__init__(low, high, size, REPLACEMENTS_PER_CONTACT)

    def touch_last_updated(self) -> None:
        """Remember, by the injected clock, that somebody in this range was looked for or came."""
        self.last_updated: float = self.clock()

    def add_node(self, node: Contact) -> bool:
        """Take a contact in; False if it is verified and the bucket is full."""
        if node.verified:
            self.replacement_nodes.pop(node.id, None)
            self.touch_last_updated()
            return bool(super().add_node(node))
        if node.id not in self.nodes:
            self.replacement_nodes.pop(node.id, None)
            self.replacement_nodes[node.id] = node
            self._drop_oldest_replacements()
        return True

    def remove_node(self, node: Contact) -> None:
        """Drop a contact; the newest verified replacement, if there is one, takes its place."""
        self.replacement_nodes.pop(node.id, None)
        if self.nodes.pop(node.id, None) is None:
            return
        verified = [waiting for waiting in self.replacement_nodes.values() if waiting.verified]
        if verified:
            del self.replacement_nodes[verified[-1].id]
            self.nodes[verified[-1].id] = verified[-1]

    def of_group(self, group: str) -> list[Contact]:
        """Its verified contacts of an address group, those that wait for a place too."""
        everybody = chain(self.nodes.values(), self.replacement_nodes.values())
        return [contact for contact in everybody if contact.verified and contact.group == group]

    def split(self) -> tuple["Bucket", "Bucket"]:
        """The two halves, with the same clock."""
        low, high = self.range
        midpoint = (low + high) // 2
        halves = (
            Bucket(low, midpoint, self.ksize, self.clock),
            Bucket(midpoint + 1, high, self.ksize, self.clock),
        )
        for contact in chain(self.nodes.values(), self.replacement_nodes.values()):
            halves[contact.long_id > midpoint].add_node(contact)
        for half in halves:
            half.last_updated = self.last_updated
        return halves

    def _drop_oldest_replacements(self) -> None:
        while len(self.replacement_nodes) > self.max_replacement_nodes:
            self.replacement_nodes.popitem(last=False)


class Table(RoutingTable):
    """The routing table of one node; `clock` gives monotonic seconds."""

    def __init__(self, own: NodeId, clock: Clock, size: int = DHT_K) -> None:
        self.clock = clock
        self.node: Contact
        self.ksize: int
        super().__init__(None, size, Contact(own, verified=True))

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self.buckets)

    def flush(self) -> None:
        """Forget everybody."""
        self.buckets = [Bucket(0, KEYSPACE_TOP, self.ksize, self.clock)]

    def add_contact(self, node: Contact) -> Contact | None:
        """Take a contact in, splitting buckets as section 4.2 of the Kademlia paper says.

        Returns a contact to ping, if its bucket is full of older ones: should it not answer, remove it, and a
        verified replacement takes its place. One whose address group has its share already is not taken in.
        """
        if node.id == self.node.id or (node.verified and self._crowded(node)):
            return None
        bucket = self.buckets[self.get_bucket_for(node)]
        while not bucket.add_node(node):
            if not (bucket.has_in_range(self.node) or bucket.depth() % 5 != 0):
                head: Contact = bucket.head()
                return head
            self.split_bucket(self.get_bucket_for(node))
            bucket = self.buckets[self.get_bucket_for(node)]
        return None

    def get_bucket_for(self, node: Node) -> int:
        """The index of the bucket in whose range, both ends included, the node is."""
        return next(index for index, bucket in enumerate(self.buckets) if bucket.has_in_range(node))

    def lonely_buckets(self) -> list[KBucket]:
        """The buckets in whose range nothing has happened for an hour."""
        return [bucket for bucket in self.buckets if bucket.last_updated < self.clock() - LONELY_S]

    def find_neighbors(self, node: Node, k: int | None = None, exclude: Node | None = None) -> list[Contact]:
        """The k verified contacts nearest to `node` by XOR, nearest first, without itself and `exclude`."""
        left_out = (node.id, exclude.id if exclude is not None else None)
        contacts = (contact for contact in self.contacts() if contact.id not in left_out)
        others: dict[bytes, Contact] = {contact.id: contact for contact in contacts}
        return [others[near] for near in keyspace.closest(node.id, others, k or self.ksize)]

    def nearest(self, target: bytes, count: int = DHT_K) -> list[NodeId]:
        """The ids of the `count` contacts nearest to a key, which may be one of theirs."""
        return [NodeId(near) for near in keyspace.closest(target, self._ids(), count)]

    def contacts(self) -> Iterator[Contact]:
        """Every verified contact that has a place."""
        return chain.from_iterable(bucket.get_nodes() for bucket in self.buckets)

    def has(self, node: bytes) -> bool:
        """Whether a node has a place."""
        return node in self.buckets[self.get_bucket_for(Contact(node))].nodes

    def forget(self, node: bytes) -> None:
        """Drop a contact that did not answer."""
        self.remove_contact(Contact(node))

    def touch(self, target: bytes) -> None:
        """Remember that a lookup went through this range."""
        self.buckets[self.get_bucket_for(Contact(target))].touch_last_updated()

    def _crowded(self, node: Contact) -> bool:
        """Whether its address group has as many contacts as it may, without this one."""
        if not node.group:
            return False
        buckets = cast(list[Bucket], self.buckets)
        in_bucket = buckets[self.get_bucket_for(node)].of_group(node.group)
        in_table = [contact for bucket in buckets for contact in bucket.of_group(node.group)]
        bounds = ((in_bucket, DHT_GROUP_PER_BUCKET), (in_table, DHT_GROUP_PER_TABLE))
        return any(sum(one.id != node.id for one in those) >= bound for those, bound in bounds)

    def _ids(self) -> Iterator[NodeId]:
        return (contact.id for contact in self.contacts())
