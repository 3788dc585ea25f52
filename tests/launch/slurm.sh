#!/usr/bin/env bash
# A SLURM of one node on this machine, without systemd, of Debian's slurm-wlm: for tests, not for use.
#   tests/launch/slurm.sh start DIR    everything it writes is in DIR; afterwards: export SLURM_CONF=DIR/slurm.conf
#   tests/launch/slurm.sh stop DIR
# Needs root, as slurmd does. Ports are chosen by the DIR's name, on the loopback interface.
set -euo pipefail
action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

stop() {
    if [ -f "$dir/slurmctld.pid" ]; then
        # what still runs would outlive its daemons
        export SLURM_CONF="$dir/slurm.conf"
        jobs=$(timeout 10 squeue --noheader --format=%A || true)
        for job in $jobs; do
            timeout 10 scancel --full --signal=KILL "$job" 2>/dev/null || true
            timeout 10 scancel "$job" 2>/dev/null || true
        done
        for _ in $(seq 60); do [ -z "$(timeout 10 squeue --noheader || true)" ] && break; sleep 0.2; done
    fi
    for daemon in slurmd slurmctld munged; do
        [ -f "$dir/$daemon.pid" ] || continue
        pid=$(cat "$dir/$daemon.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
        rm -f "$dir/$daemon.pid"
    done
}

start() {
    export PATH="$PATH:/usr/sbin:/sbin"
    host=$(hostname -s)
    ports=$(python3 - <<'PY'
import socket
held = [socket.socket() for _ in range(2)]
for item in held:
    item.bind(("127.0.0.1", 0))
print(*(item.getsockname()[1] for item in held))
PY
)
    read -r controller node <<<"$ports"
    mkdir -p "$dir/state" "$dir/spool"
    chmod 711 "$dir"
    head -c 1024 /dev/urandom > "$dir/munge.key"
    chmod 400 "$dir/munge.key"
    cat > "$dir/slurm.conf" <<CONF
ClusterName=graftlm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
AuthType=auth/munge
# cred_expire: a job that is put back waits for its old credential to expire, two minutes by default
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=10
MinJobAge=300
ReturnToService=2
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=1024 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=high Nodes=$host Default=NO MaxTime=INFINITE PriorityTier=10 State=UP
CONF
    export SLURM_CONF="$dir/slurm.conf"
    munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" --num-threads=2
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N "$host"
    for _ in $(seq 100); do
        state=$(sinfo --noheader --format=%T --partition=low 2>/dev/null || true)
        [ "$state" = idle ] && return
        sleep 0.2
    done
    echo "SLURM did not come up (node: ${state:-no answer}); see $dir/*.log" >&2
    tail -n 5 "$dir"/*.log >&2 || true
    stop
    exit 1
}

case $action in
    start) start ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop DIR" >&2; exit 2 ;;
esac
