"""The equations of the notes, section 4, in literal NumPy loops: the oracle of `test_notes`.

Names are those of the notes. Vectors are columns and a derivative by a column is a row, so a
weight `W` acts as `W @ x`; seqjax's kernels are their transposes. Nothing here is shared with
the package.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

T, I, O = 7, 3, 4  # noqa: E741


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def tanh_derivative(z):
    return 1 - np.tanh(z) ** 2


def sigmoid_derivative(z):
    return sigmoid(z) * (1 - sigmoid(z))


def softmax_jacobian(z):
    """J[j, i] = dY_j / dZ_i, entry by entry."""
    y = softmax(z)
    J = np.zeros((len(z), len(z)))
    for j in range(len(z)):
        for i in range(len(z)):
            J[j, i] = y[j] * ((1.0 if i == j else 0.0) - y[i])
    return J


# f2, how ∇_Z2(t) comes from ∇_Y(t), and the same function for seqjax
def through_scalar(derivative):
    def back(grad_Y, z):
        return np.array([grad_Y[i] * derivative(z[i]) for i in range(len(z))])

    return back


def through_softmax(grad_Y, z):
    J = softmax_jacobian(z)
    grad_Z = np.zeros(len(z))
    for i in range(len(z)):
        for j in range(len(z)):
            grad_Z[i] += grad_Y[j] * J[j, i]
    return grad_Z


OUTPUTS = {
    "tanh": (np.tanh, through_scalar(tanh_derivative), jnp.tanh),
    "sigmoid": (sigmoid, through_scalar(sigmoid_derivative), jax.nn.sigmoid),
    "softmax": (softmax, through_softmax, jax.nn.softmax),
}

TARGET = np.random.default_rng(99).standard_normal((T, O))
WEIGHT = np.random.default_rng(98).standard_normal((T, O))


# DIV(Y) and ∇_Y(t), both by hand; seqjax is given the ∇_Y(t) of its own, by JAX.
def squared_error(Y):
    return 0.5 * sum(((Y[t] - TARGET[t]) ** 2).sum() for t in range(T))


def squared_error_grad(Y):
    return [Y[t] - TARGET[t] for t in range(T)]


def product_over_time(Y):
    DIV = 1.0
    for t in range(T):
        DIV = DIV * (2 + WEIGHT[t] @ Y[t])
    return DIV


def product_over_time_grad(Y):
    factors = [2 + WEIGHT[t] @ Y[t] for t in range(T)]
    return [np.prod([factors[s] for s in range(T) if s != t]) * WEIGHT[t] for t in range(T)]


def cube_of_the_sum(Y):
    return sum(WEIGHT[t] @ Y[t] for t in range(T)) ** 3


def cube_of_the_sum_grad(Y):
    total = sum(WEIGHT[t] @ Y[t] for t in range(T))
    return [3 * total**2 * WEIGHT[t] for t in range(T)]


def maximum_over_time(Y):
    return sum(max(Y[t][i] for t in range(T)) for i in range(O))


def maximum_over_time_grad(Y):
    grad = [np.zeros(O) for _ in range(T)]
    for i in range(O):
        grad[int(np.argmax([Y[t][i] for t in range(T)]))][i] = 1.0
    return grad


DIVS = {
    "squared error": (
        squared_error,
        squared_error_grad,
        lambda Y: 0.5 * jnp.sum((Y - TARGET) ** 2),
    ),
    "product over time": (
        product_over_time,
        product_over_time_grad,
        lambda Y: jnp.prod(2 + jnp.sum(WEIGHT * Y, axis=1)),
    ),
    "cube of the sum": (
        cube_of_the_sum,
        cube_of_the_sum_grad,
        lambda Y: jnp.sum(WEIGHT * Y) ** 3,
    ),
    "maximum over time": (
        maximum_over_time,
        maximum_over_time_grad,
        lambda Y: jnp.sum(jnp.max(Y, axis=0)),
    ),
}


def random_layers(sizes, seed):
    """(W^k, W^kk, b^k, h^k(-1)) for every hidden layer k, and (W, b) of the output."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape) / np.sqrt(shape[-1])
    hidden = [(draw(n, m), draw(n, n), draw(n), draw(n)) for m, n in itertools.pairwise(sizes)]
    return hidden, (draw(O, sizes[-1]), draw(O)), rng.standard_normal((T, sizes[0]))


def one_hidden_layer(hidden, output, X, f2, back_f2, grad_of_DIV):
    """The seven steps, for t = T-1 … 0, as they stand in the notes."""
    ((W1, W11, b1, h_start),) = hidden
    W2, b2 = output
    H = len(b1)
    Z1, Z2, Y, h = {}, {}, {}, {-1: h_start}
    for t in range(T):
        Z1[t] = W1 @ X[t] + W11 @ h[t - 1] + b1
        h[t] = np.tanh(Z1[t])
        Z2[t] = W2 @ h[t] + b2
        Y[t] = f2(Z2[t])

    grad_W1, grad_W11, grad_W2 = np.zeros((I, H)), np.zeros((H, H)), np.zeros((H, O))
    grad_b1, grad_b2 = np.zeros(H), np.zeros(O)
    grad_X, grad_h, grad_Z1, grad_Z2 = {}, {}, {}, {}
    grad_Y = grad_of_DIV([Y[t] for t in range(T)])  # 1.
    for t in reversed(range(T)):
        grad_Z2[t] = back_f2(grad_Y[t], Z2[t])  # 2.
        grad_h[t] = grad_Z2[t] @ W2  # 3.
        if t < T - 1:
            grad_h[t] = grad_h[t] + grad_Z1[t + 1] @ W11
        grad_W2 += np.outer(h[t], grad_Z2[t])  # 4.
        grad_b2 += grad_Z2[t]
        grad_Z1[t] = grad_h[t] * tanh_derivative(Z1[t])  # 5.
        grad_W1 += np.outer(X[t], grad_Z1[t])  # 6.
        grad_b1 += grad_Z1[t]
        grad_W11 += np.outer(h[t - 1], grad_Z1[t])  # 7.
        grad_X[t] = grad_Z1[t] @ W1
    grad_h_start = grad_Z1[0] @ W11
    return (
        np.array([Y[t] for t in range(T)]),
        [h[T - 1]],
        [(grad_W1, grad_W11, grad_b1, grad_h_start)],
        (grad_W2, grad_b2),
        np.array([grad_X[t] for t in range(T)]),
    )


def any_number_of_layers(hidden, output, X, f, back_f, grad_of_DIV):
    """dDIV/dh^k_i(t) = Σ_j w^{k+1}_ij dDIV/dZ^{k+1}_j(t) + Σ_j w^{kk}_ij dDIV/dZ^k_j(t+1).

    The output is layer K + 1, with no recurrence; layer 0 is the input. w_ij leads from i to j.
    """
    K = len(hidden)
    w = {k: hidden[k - 1][0].T for k in range(1, K + 1)} | {K + 1: output[0].T}
    w_rec = {k: hidden[k - 1][1].T for k in range(1, K + 1)}
    b = {k: hidden[k - 1][2] for k in range(1, K + 1)} | {K + 1: output[1]}
    h = {(k, -1): hidden[k - 1][3] for k in range(1, K + 1)}
    h |= {(0, t): X[t] for t in range(T)}
    Z, Y = {}, {}
    for t in range(T):
        for k in range(1, K + 2):
            Z[k, t] = b[k].copy()
            for j in range(len(b[k])):
                for i in range(len(w[k])):
                    Z[k, t][j] += w[k][i, j] * h[k - 1, t][i]
                if k <= K:
                    for i in range(len(w_rec[k])):
                        Z[k, t][j] += w_rec[k][i, j] * h[k, t - 1][i]
            if k <= K:
                h[k, t] = np.tanh(Z[k, t])
        Y[t] = f(Z[K + 1, t])

    grad_w = {k: np.zeros_like(w[k]) for k in w}
    grad_rec = {k: np.zeros_like(w_rec[k]) for k in w_rec}
    grad_b = {k: np.zeros_like(b[k]) for k in b}
    grad_h, grad_Z = {}, {}
    grad_Y = grad_of_DIV([Y[t] for t in range(T)])
    for t in reversed(range(T)):
        grad_Z[K + 1, t] = back_f(grad_Y[t], Z[K + 1, t])
        for k in reversed(range(K + 1)):
            grad_h[k, t] = np.zeros(len(w[k + 1]))
            for i in range(len(w[k + 1])):
                for j in range(len(b[k + 1])):
                    grad_h[k, t][i] += w[k + 1][i, j] * grad_Z[k + 1, t][j]
                if k > 0 and t < T - 1:
                    for j in range(len(b[k])):
                        grad_h[k, t][i] += w_rec[k][i, j] * grad_Z[k, t + 1][j]
            if k > 0:
                grad_Z[k, t] = grad_h[k, t] * tanh_derivative(Z[k, t])
        for k in range(1, K + 2):
            for j in range(len(b[k])):
                for i in range(len(w[k])):
                    grad_w[k][i, j] += h[k - 1, t][i] * grad_Z[k, t][j]
                if k <= K:
                    for i in range(len(w_rec[k])):
                        grad_rec[k][i, j] += h[k, t - 1][i] * grad_Z[k, t][j]
                grad_b[k][j] += grad_Z[k, t][j]
    grad_start = {k: w_rec[k] @ grad_Z[k, 0] for k in w_rec}
    return (
        np.array([Y[t] for t in range(T)]),
        [h[k, T - 1] for k in range(1, K + 1)],
        [(grad_w[k], grad_rec[k], grad_b[k], grad_start[k]) for k in range(1, K + 1)],
        (grad_w[K + 1], grad_b[K + 1]),
        np.array([grad_h[0, t] for t in range(T)]),
    )


def lstm_loop(W1, W11, b, X, h, c):
    H, ys = len(h), []
    for t in range(T):
        z = W1 @ X[t] + W11 @ h + b
        i, f, g, o = z[:H], z[H : 2 * H], z[2 * H : 3 * H], z[3 * H :]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.array(ys), h, c


def gru_loop(W1, W11, b, b_m, X, h, reset_after):
    H, ys = len(h), []
    for t in range(T):
        u = W1 @ X[t] + b
        r = sigmoid(u[:H] + W11[:H] @ h)
        z = sigmoid(u[H : 2 * H] + W11[H : 2 * H] @ h)
        if reset_after:
            n = np.tanh(u[2 * H :] + r * (W11[2 * H :] @ h + b_m))
        else:
            n = np.tanh(u[2 * H :] + W11[2 * H :] @ (r * h))
        h = (1 - z) * n + z * h
        ys.append(h)
    return np.array(ys), h


def gated(gates, H, seed):
    rng = np.random.default_rng(seed)
    shapes = [(gates * H, I), (gates * H, H), (gates * H,), (H,), (T, I), (H,), (H,)]
    return [rng.standard_normal(shape) for shape in shapes]
