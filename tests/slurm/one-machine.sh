#!/usr/bin/env bash
# A real SLURM on this machine, for tests: munged, slurmctld and two slurmd as virtual nodes. Needs root. Everything it
# makes lies in DIR; it ends only what it started, and changes nothing in /etc.
#
#   one-machine.sh install      the distribution's packages (apt-get), if they are missing
#   one-machine.sh start DIR    returns when both nodes are idle; then export SLURM_CONF=DIR/slurm.conf
#   one-machine.sh stop DIR     cancels all jobs and ends the daemons
#
# Partitions: main, and urgent, whose jobs preempt those of main by requeueing them. No accounting, so no sacct.
# CPUS=4 is what each node claims to have, PORT=17817 the first of three ports, JOB=1 the id of the first job, from which
# follows where the tasks of a job meet. DIR has a short path: sockets lie in it. A job that is queued again starts after
# 15 seconds (cred_expire) instead of 120.
set -euo pipefail

die() {
    echo "one-machine.sh: $*" >&2
    exit 1
}

install_packages() {
    command -v slurmctld slurmd munged sbatch >/dev/null && return
    command -v apt-get >/dev/null || die "apt-get is not there to install SLURM"
    export DEBIAN_FRONTEND=noninteractive
    local policy=/usr/sbin/policy-rc.d # while it is there, packages start no services
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
}

runs() { # file with a process id, program: whether that process runs that program
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == "$2"* ]]
}

wait_for() { # seconds, command
    local n
    for ((n = 0; n < $1 * 5; n++)); do
        "${@:2}" && return
        sleep 0.2
    done
    return 1
}

write_configuration() {
    local host port=${PORT:-17817} i
    host=$(hostname -s)
    mkdir -p "$DIR"/{state,spool,munge,log}
    chmod 755 "$DIR" "$DIR/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge/key")
    echo "127.0.0.1 localhost $host node1 node2" >"$DIR/hosts"
    echo "# no cgroups" >"$DIR/cgroup.conf"
    cat >"$DIR/slurm.conf" <<-CONF
		ClusterName=test
		SlurmctldHost=$host(127.0.0.1)
		SlurmctldPort=$port
		SlurmUser=root
		SlurmdUser=root
		AuthType=auth/munge
		AuthInfo=socket=$DIR/munge/socket,cred_expire=15
		CredType=cred/munge
		StateSaveLocation=$DIR/state
		SlurmdSpoolDir=$DIR/spool/%n
		SlurmctldPidFile=$DIR/slurmctld.pid
		SlurmdPidFile=$DIR/%n.pid
		SlurmctldLogFile=$DIR/log/slurmctld
		SlurmdLogFile=$DIR/log/%n
		SlurmdParameters=config_overrides
		ProctrackType=proctrack/linuxproc
		TaskPlugin=task/none
		SwitchType=switch/none
		MpiDefault=none
		JobAcctGatherType=jobacct_gather/none
		AccountingStorageType=accounting_storage/none
		SelectType=select/cons_tres
		SelectTypeParameters=CR_CPU
		FirstJobId=${JOB:-1}
		SchedulerType=sched/backfill
		SchedulerParameters=sched_interval=1,sched_min_interval=1000,bf_interval=1,batch_sched_delay=0
		PreemptType=preempt/partition_prio
		PreemptMode=REQUEUE
		JobRequeue=1
		ReturnToService=2
		KillWait=25
		MinJobAge=300
		PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
		PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
	CONF
    for i in 1 2; do
        echo "NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=${CPUS:-4} RealMemory=4096"
    done >>"$DIR/slurm.conf"
}

start() {
    command -v slurmctld slurmd munged >/dev/null || die "SLURM is not installed: $0 install"
    [ "$(id -u)" = 0 ] || die "SLURM's daemons need root"
    [ ${#DIR} -lt 80 ] || die "$DIR is too long a path for sockets"
    write_configuration
    export SLURM_CONF=$DIR/slurm.conf
    munged --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/munge/pid" \
        --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed"
    slurmctld -c
    local node
    for node in node1 node2; do
        # the nodes' names are in a hosts file that this node and its jobs see, and nobody else
        HOSTS=$DIR/hosts NODE=$node unshare --mount sh -c 'mount --bind "$HOSTS" /etc/hosts && exec slurmd -N "$NODE"' ||
            die "mount namespaces are not allowed here"
    done
    wait_for 30 idle || die "the nodes did not come up in 30 s; logs are in $DIR/log"
}

idle() { [ "$(sinfo -h -p main -N -o %t 2>/dev/null | tr '\n' ' ')" = "idle idle " ]; }

empty() { [ -z "$(squeue -h 2>/dev/null)" ]; }

stop() {
    export SLURM_CONF=$DIR/slurm.conf
    if runs "$DIR/slurmctld.pid" slurmctld; then
        timeout 5 scancel --quiet --signal=KILL --full --user=root 2>/dev/null || true
        timeout 5 scancel --quiet --user=root 2>/dev/null || true
        wait_for 10 empty || true
    fi
    local daemon file program
    for daemon in node1.pid:slurmd node2.pid:slurmd slurmctld.pid:slurmctld munge/pid:munged; do
        file=$DIR/${daemon%:*} program=${daemon#*:}
        if runs "$file" "$program"; then
            kill "$(cat "$file")"
            wait_for 5 gone "$file" "$program" || kill -KILL "$(cat "$file")"
        fi
    done
}

gone() { ! runs "$1" "$2"; }

[ $# = 2 ] || [ "$*" = install ] || die "usage: $0 install | start DIR | stop DIR"
DIR=$(realpath -m "${2:-.}")
case $1 in
install) install_packages ;;
start | stop) "$1" ;;
*) die "usage: $0 install | start DIR | stop DIR" ;;
esac
