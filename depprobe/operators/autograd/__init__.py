"""Any module: rows by automatic differentiation, and proofs that outputs ignore inputs."""
