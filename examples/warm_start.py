"""A matrix that changes a little every week: last week's vectors save passes this week."""

import numpy as np

import bigspec


def main() -> None:
    rng = np.random.default_rng(0)
    m, n = 3_000, 1_500
    u, v = rng.standard_normal(m), rng.standard_normal(n)
    signal = np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    A = 3 * signal + rng.standard_normal((m, n)) / np.sqrt(m)

    old = bigspec.norm(A)
    print(f"week 0: {old.passes} passes")
    for week in range(1, 4):
        A += 0.01 * rng.standard_normal((m, n)) / np.sqrt(m)
        cold = bigspec.norm(A)
        warm = bigspec.norm(A, start=old)  # its vectors, put before a fresh Gaussian block
        print(
            f"week {week}: {cold.passes} passes cold, {warm.passes} warm; "
            f"[{warm.lower:.6f}, {warm.upper:.6f}]"
        )
        assert max(cold.lower, warm.lower) <= min(cold.upper, warm.upper)
        assert warm.passes < cold.passes
        old = warm


if __name__ == "__main__":
    main()
