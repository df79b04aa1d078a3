/** What other programs make in the kernel on a machine that godwit runs on, made with ip, nft and tc as they make it. */
import { PROTOCOL } from '../../../src/linux/ledger.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('ip', 'nft')

export interface Neighbour {
  readonly name: string
  /** Commands for a shell, run in the machine's namespace; `$DEV` is its first access and `$GATEWAY` the gateway there. */
  readonly make: string
  readonly undo: string
  /** It takes or leads astray what an anchor sends, whatever godwit does: of a host alone. */
  readonly ofHosts?: true
  /** A destination that is this program's own, and the device that it must keep going to. */
  readonly keeps?: { readonly to: string; readonly dev: string }
}

/** A device without a kernel driver of its own: what wireguard-go, tailscaled and Docker's bridges look like. */
const tun = (name: string, address: string) =>
  `ip tuntap add dev ${name} mode tun && ip address add ${address} dev ${name} && ip link set ${name} up`

export const NEIGHBOURS: readonly Neighbour[] = [
  {
    name: 'Tailscale',
    make: `
      ${tun('tailscale0', '100.101.102.103/32')}
      for family in -4 -6; do
        ip $family rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
        ip $family rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
        ip $family rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
        ip $family rule add pref 5270 lookup 52
      done
      ip route add 100.100.100.100 dev tailscale0 table 52
      ip route add 100.64.0.0/10 dev tailscale0 table 52
      ip -6 route add fd7a:115c:a1e0::/48 dev tailscale0 table 52
      nft -f - <<'END'
      table ip filter {
        chain ts-input { ip saddr 100.64.0.0/10 iifname != "tailscale0" drop; }
        chain INPUT { type filter hook input priority filter; policy accept; jump ts-input; }
      }
      table ip nat {
        chain ts-postrouting { meta mark & 0x00ff0000 == 0x00040000 masquerade; }
        chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; jump ts-postrouting; }
      }
END`,
    undo: `
      ip link del tailscale0
      for family in -4 -6; do for pref in 5210 5230 5250 5270; do ip $family rule del pref $pref; done; done
      nft delete table ip filter; nft delete table ip nat`,
    keeps: { to: '100.64.9.9', dev: 'tailscale0' },
  },
  {
    name: 'wg-quick with a full tunnel',
    ofHosts: true,
    make: `
      ${tun('wg0', '10.99.0.2/24')}
      for family in -4 -6; do
        ip $family route add default dev wg0 table 51820
        ip $family rule add not fwmark 51820 table 51820
        ip $family rule add table main suppress_prefixlength 0
      done
      nft -f - <<'END'
      table ip wg-quick-wg0 {
        chain preraw { type filter hook prerouting priority -300; iifname != "wg0" ip daddr 10.99.0.2 fib saddr type != local drop; }
        chain premangle { type filter hook prerouting priority -150; meta l4proto udp meta mark set ct mark; }
        chain postmangle { type filter hook postrouting priority -150; meta l4proto udp mark 51820 ct mark set mark; }
      }
END`,
    undo: `
      for family in -4 -6; do
        ip $family rule del not fwmark 51820 table 51820
        ip $family rule del table main suppress_prefixlength 0
      done
      ip link del wg0
      nft delete table ip wg-quick-wg0`,
    keeps: { to: '10.99.0.7', dev: 'wg0' },
  },
  {
    name: 'Docker',
    make: `
      ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up
      ip link add veth0a type veth peer name veth0b
      ip link set veth0a master docker0 up && ip link set veth0b up
      nft -f - <<'END'
      table ip nat {
        chain DOCKER { iifname "docker0" return; tcp dport 8081 dnat to 172.17.0.2:80; }
        chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
        chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
      }
      table ip docker-filter {
        chain DOCKER-USER { return; }
        chain FORWARD { type filter hook forward priority filter; policy accept; jump DOCKER-USER; }
      }
END`,
    undo: `
      ip link del docker0; ip link del veth0a
      nft delete table ip nat; nft delete table ip docker-filter`,
    keeps: { to: '172.17.0.2', dev: 'docker0' },
  },
  {
    name: 'mwan3',
    ofHosts: true,
    make: `
      ip route add default via $GATEWAY dev $DEV table 1
      for family in -4 -6; do
        ip $family rule add pref 1001 iif $DEV lookup 1
        ip $family rule add pref 2001 fwmark 0x100/0x3f00 lookup 1
        ip $family rule add pref 2061 fwmark 0x3d00/0x3f00 blackhole
        ip $family rule add pref 2062 fwmark 0x3e00/0x3f00 unreachable
        ip $family rule add pref 3001 fwmark 0x100/0x3f00 unreachable
      done
      tc qdisc add dev $DEV root handle 1: htb default 10
      tc class add dev $DEV parent 1: classid 1:10 htb rate 10gbit quantum 60000
      nft -f - <<'END'
      table inet mwan3 {
        set connected { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 127.0.0.0/8, 192.168.0.0/16 } }
        chain output { type route hook output priority mangle; policy accept; ip daddr @connected return; meta mark & 0x00003f00 != 0x00000000 return; }
      }
END`,
    undo: `
      for family in -4 -6; do for pref in 1001 2001 2061 2062 3001; do ip $family rule del pref $pref; done; done
      ip route flush table 1; tc qdisc del dev $DEV root; nft delete table inet mwan3`,
  },
  {
    name: 'systemd-networkd',
    make: `
      ip link add lan0 type bridge && ip link set lan0 up
      ip address add 10.77.0.1/24 dev lan0
      ip route add 10.78.0.0/16 via 10.77.0.2 dev lan0 proto static metric 1024 onlink
      ip route add 10.79.0.0/16 dev lan0 proto static table 10
      ip rule add pref 100 from 10.77.0.0/24 lookup 10 proto static
      ip -6 rule add pref 100 from fd77::/64 lookup 10 proto static`,
    undo: `
      ip rule del pref 100; ip -6 rule del pref 100
      ip link del lan0`,
    keeps: { to: '10.78.1.1', dev: 'lan0' },
  },
]

const OURS = ['godwit0', 'gwan0', 'gwrt0', 'gwpark-main']

/** All kernel state that godwit and its neighbours share; `others`: without what carries godwit's mark. */
export async function kernelState(
  show: (command: string, ...args: string[]) => Promise<string>,
  others: boolean,
): Promise<string[]> {
  const lists = [
    ...['-4', '-6'].flatMap((family) => [
      ['ip', '-d', '-j', family, 'rule'],
      ['ip', '-d', '-j', family, 'route', 'show', 'table', 'all'],
    ]),
    ['ip', '-j', 'address'],
    ['tc', '-j', 'qdisc'],
  ]
  const out: string[] = []
  for (const [command, ...args] of lists) {
    for (const entry of JSON.parse(await show(command!, ...args)) as Record<string, unknown>[]) {
      if (others && entry.protocol === String(PROTOCOL)) continue
      // The kernel makes these itself wherever IPv6 is forwarded.
      if (others && entry.type === 'anycast') continue
      if (others && OURS.includes(String(entry.dev ?? entry.ifname))) continue
      out.push(`${args.join(' ')}: ${JSON.stringify(entry)}`)
    }
  }
  const ruleset = JSON.parse(await show('nft', '-j', 'list', 'ruleset')) as {
    nftables: Record<string, { name?: string; table?: string }>[]
  }
  for (const entry of ruleset.nftables) {
    const table = entry.table?.name ?? Object.values(entry)[0]?.table
    if (others && table?.startsWith('godwit_')) continue
    out.push(`nft: ${JSON.stringify(entry)}`)
  }
  return out
}
