/** A network with a captive portal: it is noticed, said, let through for the browser, and closed again when somebody has signed in. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, INSIDE, LaptopBed, SERVER, until } from '../../netns/anchoring/laptop-bed.ts'

usesPrograms('curl', 'ip', 'nft')
usePrivateNames()

/** Of the network's own, not in the laptop's subnet. */
const PORTAL = '10.77.0.1'
const PORTAL_WEB = `require('http').createServer((q,r)=>q.url==='/login'?r.end('please pay, '+q.socket.remoteAddress.replace('::ffff:','')):r.writeHead(302,{location:'http://${PORTAL}:8880/login'}).end()).listen(8880,()=>console.log('up'))`
/** Everything that the laptop opens ends here, but the portal. */
const CAPTIVE = `
  table ip captive {
    chain in { type nat hook prerouting priority dstnat; iifname lan ip daddr != ${PORTAL} tcp dport 80 redirect to :8880; }
    chain through { type filter hook forward priority filter - 1; iifname lan reject; }
  }
  table ip6 captive { chain through { type filter hook forward priority filter - 1; iifname lan reject; }; }`

let bed: LaptopBed

before(async () => {
  bed = await LaptopBed.build(topologyNamed('upmt'))
  await bed.shell('mh', 'ip link set acc2 down')
  await bed.shell('nat1', `ip address add ${PORTAL}/32 dev lo`)
  const program = await bed.lab.programs.start('nat1', process.execPath, ['-e', PORTAL_WEB])
  await program.expect((line) => line === 'up', 10_000)
  await bed.shell('nat1', `nft '${CAPTIVE}'`)
  // Reached by its IPv4 address, too.
  bed.configuration = bed.configuration.replace(/^endpoint = .*$/m, `endpoint = "${ANCHOR}:51820"`)
})
after(() => bed.close())

test('a captive portal is noticed, said, let through for the browser, and no more when an anchor answers', async () => {
  const ready = bed.up(1)
  await until('it is said', () =>
    bed
      .log('mh')
      .includes(
        `acc1: a captive portal answers in place of the anchor: sign in at http://${PORTAL}:8880/login`,
      ),
  )
  const access = (await bed.status()).accesses.find(({ name }) => name === 'acc1') as
    | { portal?: string }
    | undefined
  assert.equal(access?.portal, `http://${PORTAL}:8880/login`)
  await until(
    'the browser gets there',
    async () => (await bed.ask('mh', `http://${SERVER}/`, '-L')) === `please pay, ${INSIDE.acc1}`,
  )
  assert.equal(await bed.ask('mh', `https://${SERVER}/`, '-k'), '', 'nothing else passes')
  // Paid.
  await bed.shell('nat1', 'nft delete table ip captive; nft delete table ip6 captive')
  await ready
  await until('through the tunnel', async () => (await bed.seen()) === ANCHOR)
  assert.ok(bed.log('mh').includes('acc1: no captive portal any more'))
  assert.doesNotMatch(await bed.run('mh', 'ip', 'rule'), /^6834:/m)
})
