/**
 * A laptop with other things on it: servers, containers, sessions from before, programs that chose their address or device,
 * firewalls that look where packets come from, and what is only meant for the link. All of it goes its way while what is
 * opened now goes through the tunnel.
 */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Program } from '../../../lab/hosts.ts'
import { makeSsh, sshSkip } from '../../../lab/ssh.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { namespaceOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, INSIDE, INSIDE6, LaptopBed, OUTSIDE, SERVER, until } from './laptop-bed.ts'

usesPrograms('curl', 'ip', 'nft', 'ssh', 'sshd')
usePrivateNames()

/** As Docker makes it: a bridge, a container behind it, a port that is led there, and forwarding. */
const CONTAINER = `
  ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up
  ip link add veth0 type veth peer name eth0 netns CONTAINER && ip link set veth0 master docker0 up
  echo 1 > /proc/sys/net/ipv4/ip_forward
  nft -f - <<'END'
  table ip nat {
    chain DOCKER { iifname "docker0" return; tcp dport 8081 dnat to 172.17.0.2:80; }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
  }
END`

/** firewalld's check of where packets come from (IPv6_rpfilter), and the same for IPv4. */
const FIREWALLD = `
  table inet firewalld {
    chain filter_PREROUTING {
      type filter hook prerouting priority filter + 10; policy accept;
      icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
      meta nfproto ipv6 fib saddr . mark . iif oif missing counter drop
      meta nfproto ipv4 fib saddr . mark . iif oif missing counter drop
    }
  }`

/** ufw's default (deny incoming, allow outgoing), with the laptop's own ports let in: before.rules, as iptables would say it. */
const UFW = `
  table inet ufw {
    chain INPUT {
      type filter hook input priority filter; policy drop;
      iif lo accept
      ct state related,established accept
      ct state invalid drop
      meta l4proto { icmp, ipv6-icmp } accept
      tcp dport { 22, 8080 } accept
    }
    chain OUTPUT { type filter hook output priority filter; policy accept; ct state new,established accept; }
  }`

/** Prints what it gets on a port, whoever it was for: of SSDP's group, of mDNS's, of everybody. */
const LISTEN = `const s=require('dgram').createSocket('udp4');s.on('message',(m,r)=>console.log(m+' from '+r.address));s.bind(1900,()=>{for(const g of ['239.255.255.250','224.0.0.251'])s.addMembership(g,'192.168.1.1');console.log('up')})`
const SPEAK = `const s=require('dgram').createSocket('udp4');s.bind(0,()=>{s.setBroadcast(true);let n=0;for(const to of ['239.255.255.250','224.0.0.251','255.255.255.255'])s.send(to,1900,to,()=>{if(++n===3)s.close()})})`

const spec = (() => {
  const upmt = topologyNamed('upmt')
  return { ...upmt, hosts: { ...upmt.hosts, container: {} } }
})()

let bed: LaptopBed
let session: Program | undefined

before(async () => {
  bed = await LaptopBed.build(spec)
  await bed.leadToLaptop(22, 8080, 8081)
  await bed.web('mh', 'laptop', 8080)
  await bed.shell('mh', CONTAINER.replace('CONTAINER', namespaceOf('container')))
  await bed.shell(
    'container',
    'ip address add 172.17.0.2/16 dev eth0; ip link set eth0 up; ip route add default via 172.17.0.1',
  )
  await bed.web('container', 'container', 80)
  for (const rules of [FIREWALLD, UFW]) await bed.shell('mh', `nft '${rules}'`)
  if (sshSkip() === false) session = await logIn()
  await bed.up()
})
after(() => bed.close())

/** Somebody administers the laptop from outside, from before `godwit up`. */
async function logIn(): Promise<Program> {
  const { server, client } = makeSsh(bed.lab.createScratch())
  const [command, ...args] = server
  const daemon = await bed.lab.programs.start('mh', command, args)
  await until('sshd listens', () => daemon.errors.includes('Server listening on 0.0.0.0'))
  const ssh = await bed.lab.programs.start('ch2', 'ssh', [...client, `root@${OUTSIDE.acc1}`, 'sh'], {
    input: true,
  })
  ssh.tell('echo begun; echo $SSH_CONNECTION')
  await ssh.expect((line) => line === 'begun', 10_000)
  return ssh
}

test('firewalld drops what no route leads back to, and ufw what nobody asked for: tunnels over IPv6 come up all the same, one over each access', async () => {
  const { peers } = await bed.status()
  assert.deepEqual(peers[0]!.paths.map(({ access, state }) => [access, state]).sort(), [
    ['acc1', 'up'],
    ['acc2', 'up'],
  ])
  assert.equal(await bed.seen(), ANCHOR, 'what is opened now goes through the tunnel')
})

test('a server on the laptop is reached from outside through either access, and over IPv6', async () => {
  assert.equal(await bed.ask('ch2', `http://${OUTSIDE.acc1}:8080/`), 'laptop')
  assert.equal(await bed.ask('ch2', `http://${OUTSIDE.acc2}:8080/`), 'laptop')
  assert.equal(await bed.ask('ch2', `http://[${INSIDE6}]:8080/`), 'laptop')
})

test('a published port of a container is reached through either access; what the container opens goes through the tunnel', async () => {
  assert.equal(await bed.ask('ch2', `http://${OUTSIDE.acc1}:8081/`), 'container')
  assert.equal(await bed.ask('ch2', `http://${OUTSIDE.acc2}:8081/`), 'container')
  assert.equal(await bed.ask('container', `http://${SERVER}/`), ANCHOR)
})

test('the marks of replies come back after another program removed their table', async () => {
  await bed.shell('mh', 'nft delete table inet godwit_main')
  const tables = () => bed.run('mh', 'nft', 'list', 'tables')
  await until('the table is there', async () => (await tables()).includes('inet godwit_main'))
  assert.equal(await bed.ask('ch2', `http://${OUTSIDE.acc2}:8081/`), 'container')
})

test('a session of ssh from before `godwit up` goes on', { skip: sshSkip() }, async () => {
  session!.tell('echo still here')
  await session!.expect((line) => line === 'still here', 5000)
})

test('a program that chose an address or a device keeps it', async () => {
  for (const access of ['acc1', 'acc2'] as const) {
    assert.equal(await bed.seen('--interface', `host!${INSIDE[access]}`), OUTSIDE[access])
    assert.equal(await bed.seen('--interface', `if!${access}`), OUTSIDE[access])
  }
})

test('multicast and broadcast stay on the link: SSDP, mDNS and 255.255.255.255 arrive there', async () => {
  const neighbour = await bed.lab.programs.start('nat1', process.execPath, ['-e', LISTEN])
  await neighbour.expect((line) => line === 'up', 5000)
  await bed.run('mh', process.execPath, '-e', SPEAK)
  const heard = [await neighbour.line(), await neighbour.line(), await neighbour.line()].sort()
  assert.deepEqual(heard, [
    `224.0.0.251 from ${INSIDE.acc1}`,
    `239.255.255.250 from ${INSIDE.acc1}`,
    `255.255.255.255 from ${INSIDE.acc1}`,
  ])
  await neighbour.stop()
})

test('an address that comes and goes is followed: a server is reached at it, and no rule is left', async () => {
  await bed.shell('mh', 'ip address add 192.168.1.101/24 dev acc1')
  await bed.shell('nat1', `nft 'add rule ip lead in iifname wan tcp dport 8082 dnat to 192.168.1.101:8080'`)
  const rules = () => bed.run('mh', 'ip', 'rule')
  await until('its rule is there', async () => (await rules()).includes('from 192.168.1.101 lookup 6701'))
  assert.equal(await bed.ask('ch2', `http://${OUTSIDE.acc1}:8082/`), 'laptop')
  await bed.shell('mh', 'ip address del 192.168.1.101/24 dev acc1')
  await until('its rule is gone', async () => !(await rules()).includes('192.168.1.101'))
})
