"""Optimal stopping compared with literal dynamic programmes, and the ensembles and regressions that it is made of."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, make_policy
from offramp.policies.base import first_exit
from offramp.policies.stopping import RULES, backward_prices
from strategies import quick

# The dynamic programme


class Chain:
    """A Markov chain of S states per exit: all paths, their probabilities, and the chance of being right (L, S)."""

    def __init__(self, begin, moves, chance, cost):
        self.begin, self.moves, self.chance, self.cost = begin, moves, chance, np.asarray(cost) / cost[-1]
        exits, states = chance.shape
        self.paths = np.stack(np.meshgrid(*[np.arange(states)] * exits, indexing="ij"), axis=-1).reshape(-1, exits)
        self.weight = begin[self.paths[:, 0]]
        for i in range(exits - 1):
            self.weight = self.weight * moves[i][self.paths[:, i], self.paths[:, i + 1]]
        self.right = np.stack([chance[i][self.paths[:, i]] for i in range(exits)], axis=1)  # (paths, L)

    def value(self, price, i):
        """Return V_i of each state."""
        if i == len(self.cost) - 1:
            return self.chance[i]
        return np.maximum(self.chance[i], self.go_on(price, i))

    def go_on(self, price, i):
        return self.moves[i] @ self.value(price, i + 1) - price * (self.cost[i + 1] - self.cost[i])

    def price(self, i, state):
        """Return the price at which stopping and going on are equal, by bisection."""
        high = 1 / np.diff(self.cost).min() + 1  # a gain is between −1 and 1
        low = -high
        for _ in range(60):
            middle = (low + high) / 2
            if self.go_on(middle, i)[state] > self.chance[i, state]:
                low = middle
            else:
                high = middle
        return middle

    def expect(self, i, targets):
        """Return exact conditional means, given the state at exit i."""
        means = np.empty(targets.shape)
        for state in range(self.chance.shape[1]):
            here = self.paths[:, i] == state
            means[here] = self.weight[here] @ targets[here] / self.weight[here].sum()
        return means

    def signal(self):
        prices = backward_prices(
            self.right, np.broadcast_to(self.cost, self.right.shape), self.expect, np.diff(self.cost)
        )
        return np.concatenate([-prices, np.zeros((len(prices), 1))], axis=1)


def chain_of(seed, exits, states):
    random = np.random.default_rng(seed)
    begin, *moves = (random.dirichlet(np.ones(states), size) for size in (None, *[states] * (exits - 1)))
    chance = random.random((exits, states))
    return Chain(begin, moves, chance, np.cumsum(random.integers(1, 9, exits)))


@quick
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 4), st.floats(-3, 5))
def test_the_signal_is_the_price_at_which_stopping_and_going_on_are_equal(seed, exits, states, price):
    chain = chain_of(seed, exits, states)
    assert states * (exits - 2) <= RULES  # all later prices are tried
    signal = chain.signal()
    for i in range(exits - 1):
        expected = np.array([chain.price(i, state) for state in range(states)])
        np.testing.assert_allclose(-signal[:, i], expected[chain.paths[:, i]], rtol=1e-9, atol=1e-9)
    # The first exit whose signal is at least −price has the highest value for this price
    at, rows = first_exit(signal, -price), np.arange(len(signal))
    value = chain.weight @ (chain.right[rows, at] - price * (chain.cost[at] - chain.cost[0]))
    np.testing.assert_allclose(value, chain.begin @ chain.value(price, 0), rtol=1e-9, atol=1e-9)


def test_many_samples_of_a_chain_give_its_prices():
    moves = [np.array([[0.5, 0.5], [0.8, 0.2]]), np.array([[0.9, 0.1], [0.3, 0.7]])]
    # Max softmax is higher where going on is worth more at the first exit
    chain = Chain(np.array([0.6, 0.4]), moves, np.array([[0.5, 0.4], [0.3, 0.7], [0.6, 0.9]]), [1.0, 3.0, 4.0])
    random = np.random.default_rng(0)
    paths = chain.paths[random.choice(len(chain.paths), 40_000, p=chain.weight)]  # (N, L)
    chance = np.stack([chain.chance[i][paths[:, i]] for i in range(3)], axis=1)
    quality = (random.random(chance.shape) < chance).astype(np.float64)
    record = ExitRecord.from_scores(quality, np.where(paths == 1, 0.75, 0.5), [1.0, 3.0, 4.0])
    policy = make_policy("stopping").fit(record)
    assert policy.state["knots"].tolist() == [0]
    of_state = {tuple(path): row for path, row in zip(chain.paths, chain.signal())}
    expected = np.array([of_state[tuple(path)] for path in paths])
    # Four standard errors of the gains, about 1/√20,000, divided by the additional costs
    np.testing.assert_array_less(np.abs(policy.signal(record) - expected)[:, :2], np.array([0.03 / 0.5, 0.03 / 0.25]))
