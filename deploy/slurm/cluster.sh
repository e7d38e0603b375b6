#!/bin/sh
# A Slurm cluster of one node on this machine, for trials and tests:
#
#     sh deploy/slurm/cluster.sh start FOLDER     # prints the SLURM_CONF to set
#     sh deploy/slurm/cluster.sh stop FOLDER
#     sh deploy/slurm/cluster.sh lose FOLDER      # the node is gone, with all its processes
#     sh deploy/slurm/cluster.sh return FOLDER    # it is back
#
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge; no systemd, containers or accounting. Ports:
# SLURM_PORT (6817) and the next one.
set -eu
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
export SLURM_CONF="$folder/slurm.conf"
PATH=$PATH:/usr/sbin
port=${SLURM_PORT:-6817}

end() { # end the process of a file, and wait for it
  [ -f "$folder/$1.pid" ] || return 0
  process=$(cat "$folder/$1.pid")
  kill "-$2" "$process" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$process" 2>/dev/null || break
    sleep 0.1
  done
  rm -f "$folder/$1.pid"
}

lose() { # SIGKILL to the processes of all jobs, to those that watch them, and to the node's daemon
  for step in $(pgrep slurmstepd || true); do
    tr '\0' '\n' <"/proc/$step/environ" 2>/dev/null | grep -qx "SLURM_CONF=$SLURM_CONF" || continue
    for process in $(pgrep -P "$step"); do kill -KILL "-$process" 2>/dev/null || true; done
    kill -KILL "$step" 2>/dev/null || true
  done
  end slurmd KILL
}

case $action in
start)
  mkdir -p "$folder/state" "$folder/spool"
  [ -f "$folder/munge.key" ] || dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 2>/dev/null
  chmod 600 "$folder/munge.key"
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
# a job that is put back into the queue waits as long as its credential is valid: 120 s by default
AuthInfo=socket=$folder/munge.sock,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MailProg=/bin/true
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  # --force: the folder may be below one that others can write to
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  slurmctld -c
  slurmd
  for _ in $(seq 300); do
    sinfo --noheader --format %T 2>/dev/null | grep -q -e idle -e mixed -e allocated && break
    sleep 0.1
  done
  echo "SLURM_CONF=$SLURM_CONF"
  ;;
stop)
  scancel --quiet --user "$(id -un)" 2>/dev/null || true
  lose
  end slurmctld TERM
  end munged TERM
  ;;
lose) lose ;;
return) slurmd ;;
*)
  echo "$0 start|stop|lose|return FOLDER" >&2
  exit 2
  ;;
esac
