/** Packet filters that people have, set up by the programs themselves: Docker's rules, ufw, firewalld, an own nft file. */
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('dbus-daemon', 'firewalld', 'iptables', 'iptables-legacy', 'nft', 'ufw')
usesPrograms('iptables-legacy-save', 'ip6tables-legacy-save')

export interface PacketFilter {
  readonly name: string
  /** Scripts for a shell in the machine's namespace; `$FOLDER` is an empty folder of the test's. */
  readonly make: string
  /** It loads its rules anew: ours go with the old ones. */
  readonly reload: string
  readonly undo: string
}

/** dockerd 20.10 with the default bridge, its calls in their order; `$T` is the program. */
const docker = `
  $T -w -N DOCKER; $T -w -N DOCKER-ISOLATION-STAGE-1; $T -w -N DOCKER-ISOLATION-STAGE-2; $T -w -N DOCKER-USER
  $T -w -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP; $T -w -A DOCKER-ISOLATION-STAGE-2 -j RETURN
  $T -w -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
  $T -w -A DOCKER-ISOLATION-STAGE-1 -j RETURN
  $T -w -A DOCKER-USER -j RETURN
  $T -w -P FORWARD DROP`
const dockerForward = `
  $T -w -A FORWARD -j DOCKER-USER
  $T -w -A FORWARD -j DOCKER-ISOLATION-STAGE-1
  $T -w -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  $T -w -A FORWARD -o docker0 -j DOCKER
  $T -w -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
  $T -w -A FORWARD -i docker0 -o docker0 -j ACCEPT`

function dockerBy(name: string, programs: string): PacketFilter {
  const each = (script: string) => `for T in ${programs}; do ${script}\n done`
  return {
    name,
    make: each(docker + dockerForward),
    reload: each(`$T -w -F FORWARD\n${dockerForward}`),
    undo: each('$T -w -P FORWARD ACCEPT; $T -w -F; $T -w -X'),
  }
}

/** ufw works on /etc: a copy of it, in a mount namespace of the command's own. */
const ufw = (command: string) => `
  [ -d $FOLDER/ufw ] || { cp -a /etc/ufw $FOLDER/ufw; cp /etc/default/ufw $FOLDER/default; }
  unshare -m sh -ec "mount --bind $FOLDER/ufw /etc/ufw; mount --bind $FOLDER/default /etc/default/ufw; ${command}" >&2`

const FLUSH_TABLES = 'for T in iptables ip6tables; do $T -w -F; $T -w -X; $T -w -P FORWARD ACCEPT; done'

const OWN_TABLE = `
  nft -f - <<'END'
table inet filter
delete table inet filter
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
  }
}
END`

const BUS = `<busconfig><type>system</type><listen>unix:path=$FOLDER/bus</listen><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy></busconfig>`

export const FILTERS: readonly PacketFilter[] = [
  dockerBy('Docker by iptables-nft', 'iptables'),
  dockerBy('Docker by iptables-legacy, both families', 'iptables-legacy ip6tables-legacy'),
  {
    name: 'ufw',
    make: ufw('ufw allow 51820/udp; ufw --force enable'),
    reload: `iptables -w -F FORWARD; ip6tables -w -F FORWARD; ${ufw('ufw reload')}`,
    undo: `${ufw('ufw disable')}\n${FLUSH_TABLES}`,
  },
  {
    name: 'firewalld',
    make: `
      cat > $FOLDER/bus.conf <<END
${BUS}
END
      dbus-daemon --config-file=$FOLDER/bus.conf --nofork --nopidfile >/dev/null 2>&1 &
      echo $! > $FOLDER/bus.pid
      cp -a /etc/firewalld $FOLDER/firewalld
      export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$FOLDER/bus
      for i in $(seq 50); do [ -S $FOLDER/bus ] && break; sleep 0.1; done
      firewalld --nofork --nopid --system-config $FOLDER/firewalld --log-file $FOLDER/log >/dev/null 2>&1 &
      echo $! > $FOLDER/firewalld.pid
      for i in $(seq 50); do timeout 5 firewall-cmd --state >/dev/null 2>&1 && break; sleep 0.2; done
      firewall-cmd --add-port=51820/udp --permanent >&2
      firewall-cmd --reload >&2`,
    reload: 'DBUS_SYSTEM_BUS_ADDRESS=unix:path=$FOLDER/bus firewall-cmd --reload >&2',
    undo: `
      PID=$(cat $FOLDER/firewalld.pid); kill $PID
      for i in $(seq 100); do [ -d /proc/$PID ] || break; sleep 0.1; done
      kill $(cat $FOLDER/bus.pid)
      nft delete table inet firewalld 2>/dev/null || true`,
  },
  { name: 'an own table of nft', make: OWN_TABLE, reload: OWN_TABLE, undo: 'nft delete table inet filter' },
]

/** All rules of all programs but ours, without what they counted. */
export const LIST_FILTERS = `
  { nft list ruleset | grep -v '^# Warning'; cat /proc/net/ip_tables_names | grep -q filter && iptables-legacy-save -t filter
  cat /proc/net/ip6_tables_names | grep -q filter && ip6tables-legacy-save -t filter; true; } 2>/dev/null |
  sed '/^table inet godwit_main {/,/^}/d' | grep -v '^#' | grep -v gwan0 | sed -E 's/packets [0-9]+ bytes [0-9]+//; s/\\[[0-9]+:[0-9]+\\]//'`
