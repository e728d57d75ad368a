"""What can go wrong in a shard, by cause. Knows neither gRPC codes nor exit codes; `service` and `cli` map them."""


class ShardError(Exception):
    """Anything the shard refuses or cannot do; the message says what, the value, the limit and what to do."""


class InvalidRequest(ShardError):
    """A plan or call that cannot be meant: bad columns, unknown slot, out of order."""


class OutOfPages(ShardError):
    """The KV pool has no page left for an operation."""


class ModelNotSupported(ShardError, ValueError):
    """The configuration names something that no family here builds. The operator's mistake."""


class WeightsMismatch(ShardError, ValueError):
    """Weight files are unreadable, incomplete, left over or of the wrong shape. The operator's mistake."""


class BadSetting(ShardError, ValueError):
    """A flag, directory or file that the operator gave cannot be used."""


class Internal(ShardError):
    """Our own mistake, or the machine's."""


class RankLost(ShardError):
    """Another rank of the group died or hangs; the whole group has to start again."""


class KvMemoryLost(Exception):
    """The machine refused a memory call in the middle of an operation, so that nobody knows what is mapped. Not a ShardError:
    no step can answer for it, the stream of plans ends."""
