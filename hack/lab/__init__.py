"""The project's lab: a real Kubernetes cluster on one machine, for tests and for trying things out.

There is no container daemon, no image registry and no cloud behind it: the programs are built from Go modules
pinned in `hack/tools`, run as plain processes, and keep all their state in one folder that `down` removes.

    import lab.cluster, lab.images
    lab.cluster.up()                      # idempotent; seconds once the tools are built
    lab.images.build("operator", "jobs")  # into the node's image store
    lab.cluster.kubectl("get", "nodes")
    lab.cluster.down()
"""
