"""What ours is compared with: other clients of etcd, and the same work in Rust. Only the benchmarks import this."""
