#!/usr/bin/env bash
# Starts a real Slurm on this machine for testing: munge, the controller and the node daemon, all on 127.0.0.1.
set -euo pipefail

usage() {
    cat <<'HELP'
workflow/loopback_slurm.sh up           start Slurm, and write the Snakemake profile for it
workflow/loopback_slurm.sh down         cancel its jobs and stop the daemons
workflow/loopback_slurm.sh run [ARG …]  start Slurm, run `snakemake ARG …` on it, and always stop it afterwards
workflow/loopback_slurm.sh daemon       start the node daemon again after it was killed

Requires root and the Debian packages slurm-wlm and munge: `apt-get install slurm-wlm munge`. All files are in
/run/offramp-slurm, except for slurm.conf and gres.conf in /etc/slurm, because jobs read these from there only. If one
of the two files exists already, it is not changed, and nothing is started. The GPU of the node is a placeholder, so
that jobs can request a GPU.

While Slurm is running:
  snakemake --workflow-profile profiles/slurm --profile /run/offramp-slurm/profile
HELP
}

folder=/run/offramp-slurm
conf=/etc/slurm/slurm.conf
gres=/etc/slurm/gres.conf
mark="# Written by Offramp's loopback_slurm.sh"

fail() {
    echo "loopback_slurm.sh: $*" >&2
    exit 1
}

up() {
    local host program file
    [ "$(id -u)" = 0 ] || fail "only root can start Slurm's daemons; try sudo"
    for program in munged slurmctld slurmd; do
        command -v "$program" >/dev/null || fail "$program is not installed: apt-get install slurm-wlm munge"
    done
    for file in "$conf" "$gres"; do
        [ ! -e "$file" ] || fail "$file exists: this machine has a Slurm of its own, or \`down\` was forgotten"
    done
    host=$(hostname -s)
    getent hosts "$host" >/dev/null || fail "the name $host does not resolve: add \"127.0.0.1 $host\" to /etc/hosts"

    rm -rf "$folder"
    mkdir -p "$folder"/{controller,node,log,profile} "$(dirname "$conf")"
    install -d -o munge -g munge -m 755 "$folder/munge"
    install -o munge -g munge -m 400 /dev/null "$folder/munge/key"
    head -c 1024 /dev/urandom >"$folder/munge/key"
    # RealMemory may exceed the real memory, so that jobs can be scheduled on any machine. SlurmdTimeout and cred_expire
    # are short: the jobs of a failed node start again after half a minute instead of seven minutes.
    cat >"$conf" <<CONF
$mark
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=15
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmdTimeout=15
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/node
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
SwitchType=switch/none
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,bf_interval=5
GresTypes=gpu
KillWait=5
MinJobAge=3600
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=128000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    printf '%s\n' "$mark" "Name=gpu File=/dev/null" >"$gres"
    cat >"$folder/profile/config.yaml" <<'PROFILE'
# This Slurm has no accounting. Jobs are polled more often than is acceptable on a shared cluster.
slurm-no-account: true
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 3
PROFILE
    runuser -u munge -- "$(command -v munged)" --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munge/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" &&
        slurmctld && slurmd &&
        while [ "$SECONDS" -lt 30 ]; do
            if [ "$(timeout 5 sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
                sinfo
                return
            fi
            # The port may still be in use shortly after another controller has stopped
            kill -0 "$(cat "$folder/slurmctld.pid" 2>/dev/null)" 2>/dev/null || slurmctld
            sleep 0.2
        done
    down
    fail "Slurm did not come up: see $folder/log and $folder/munge/log"
}

# Stop the daemon with this name, if the process in the pid file is this daemon
stop() {
    local name=$1 pid
    pid=$(cat "$2" 2>/dev/null) || return 0
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] || return 0
    kill "$pid"
    for _ in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.2
    done
    kill -KILL "$pid"
}

down() {
    [ -e "$conf" ] || fail "$conf does not exist: nothing to take down"
    [ "$(head -n 1 "$conf")" = "$mark" ] || fail "$conf is not of this script: left alone"
    timeout 5 scancel --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 50); do
        [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ] || break
        sleep 0.2
    done
    stop slurmd "$folder/slurmd.pid"
    stop slurmctld "$folder/slurmctld.pid"
    stop munged "$folder/munge/munged.pid"
    rm "$conf" "$gres"
}

case ${1:-} in
    up) up ;;
    down) down ;;
    daemon) slurmd ;;
    run)
        shift
        up
        trap down EXIT
        snakemake --workflow-profile profiles/slurm --profile "$folder/profile" "$@"
        ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
