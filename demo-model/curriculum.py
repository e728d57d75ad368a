"""What to train on next, from the accuracies measured so far. Knows no model and no clock."""

from dataclasses import dataclass, field, replace

from corpus import Mix
from skills import SKILLS, Skill

TARGET = 0.97  # a skill above this keeps only its floor
FLOOR = 0.4
COPY_START, COPY_GROWTH, COPY_PASS = 48, 1.6, 0.7
DISTANCES = (170, 950)
SHORT_DISTANCE = 170  # the longest that fits rows of 256
FULL_DISTANCE = 3950
LOOK_UP_SHARE = 0.35  # of the other skills' items
DISTANCE_PASS = 0.7


@dataclass
class Curriculum:
    """State that a checkpoint carries: copy vocabulary, distance level, accuracies."""

    vocab_size: int
    copy_ids: int = COPY_START
    copying: bool = True
    copy_losses: list[float] = field(default_factory=list)
    level: int = 0
    accuracies: dict[str, float] = field(default_factory=dict)

    def note_copy_loss(self, loss: float) -> None:
        """Grows the copied vocabulary when the last fifteen losses are low enough."""
        self.copy_losses = [*self.copy_losses, loss][-15:]
        if len(self.copy_losses) < 15 or sum(self.copy_losses) / 15 >= COPY_PASS:
            return
        self.copying = self.copy_ids < self.vocab_size
        self.copy_ids = min(int(self.copy_ids * COPY_GROWTH), self.vocab_size)
        self.copy_losses = []

    @property
    def max_distance(self) -> int:
        """The longest look-up distance now trained."""
        return DISTANCES[self.level]

    def note_accuracies(self, accuracies: dict[str, float], at_distance: float) -> None:
        """Takes in one measurement; lengthens the distance when the present one is passed."""
        self.accuracies = accuracies
        if at_distance > DISTANCE_PASS:
            self.level = min(self.level + 1, len(DISTANCES) - 1)

    def mix(self, *, longest: int) -> Mix:
        """The mix for rows that hold look-ups up to `longest` tokens back."""
        weights = tuple(skill.weight * self.need(skill) for skill in SKILLS)
        look_up_weight = LOOK_UP_SHARE * sum(weights)
        return Mix(weights, look_up_weight, min(self.max_distance, longest))

    def long_mix(self, longest: int) -> Mix:
        """The mix for long rows: a third of the items are look-ups."""
        mix = self.mix(longest=longest)
        return replace(mix, look_up_weight=0.5 * sum(mix.weights))

    def full_mix(self) -> Mix:
        """The mix for rows of all positions: distances beyond the measured level."""
        mix = self.mix(longest=FULL_DISTANCE)
        return replace(mix, look_up_weight=0.5 * sum(mix.weights), max_distance=FULL_DISTANCE)

    def need(self, skill: Skill) -> float:
        """1 for a skill not learned at all, falling to FLOOR at the target."""
        missing = max(0.0, 1 - self.accuracies.get(skill.name, 0.0) / TARGET)
        return FLOOR + (1 - FLOOR) * missing
