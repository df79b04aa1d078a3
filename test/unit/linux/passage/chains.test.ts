/** Issue 10 B1: what foreign packet filters do with what an anchor forwards, read from rules as the programs print them. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Accept, droppedAt, probeOf } from '../../../../src/linux/passage/chains.ts'
import { acceptArguments, parseForward, words } from '../../../../src/linux/passage/iptables.ts'
import { acceptScript, forwardChainsIn, readNftChain } from '../../../../src/linux/passage/nft-chains.ts'

const OUT: Accept = { iif: 'gwan0' }
const BACK: Accept = { oif: 'gwan0', state: 'established' }
const DNAT: Accept = { oif: 'gwan0', state: 'dnat' }

/** Docker 20.10, as `iptables-save` prints it. */
const DOCKER = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
`

describe('what a chain does with a packet', () => {
  const at = (text: string, accept: Accept) => droppedAt(parseForward(text)!, probeOf(accept, 4, 'eth0'))

  test('B1: the policy that Docker sets drops both ways', () => {
    for (const accept of [OUT, BACK, DNAT]) assert.equal(at(DOCKER, accept), 6)
    assert.equal(at(DOCKER.replace('FORWARD DROP', 'FORWARD ACCEPT'), OUT), undefined)
  })

  test('B1: a rule that drops is found where it stands, also behind jumps; accepts before it count', () => {
    const rejects = DOCKER.replace('FORWARD DROP', 'FORWARD ACCEPT').replace(
      '-A DOCKER-USER -j RETURN',
      '-A DOCKER-USER -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A DOCKER-USER -i gw+ -j REJECT --reject-with icmp-port-unreachable',
    )
    assert.equal(at(rejects, OUT), 0)
    assert.equal(at(rejects, BACK), undefined)
  })

  test('B1: a match that is not understood, or of another device or source, drops nothing', () => {
    for (const rule of ['-m set --match-set bad src -j DROP', '-i eth7 -j DROP', '-p tcp --dport 25 -j DROP'])
      assert.equal(at(`:FORWARD ACCEPT [0:0]\n-A FORWARD ${rule}`, OUT), undefined, rule)
    const own: Accept = { ...OUT, source: { address: Uint8Array.of(10, 2, 0, 0), length: 24 } }
    assert.equal(at(':FORWARD DROP [0:0]\n-A FORWARD -s 10.0.0.0/8 -j ACCEPT', own), undefined)
    assert.equal(at(':FORWARD DROP [0:0]\n-A FORWARD -s 10.9.0.0/16 -j ACCEPT', own), 1)
  })

  test('B1: goto ends the chain that it leaves', () => {
    const text = ':FORWARD DROP [0:0]\n:Z - [0:0]\n-A FORWARD -g Z\n-A FORWARD -j ACCEPT'
    assert.equal(at(text, OUT), 2)
  })
})

test('B1: the words of a rule, and the arguments of an accept', () => {
  assert.deepEqual(words('FORWARD -m comment --comment "godwit \\"main\\"" -j ACCEPT'), [
    ...['FORWARD', '-m', 'comment', '--comment', 'godwit "main"', '-j', 'ACCEPT'],
  ])
  assert.equal(
    acceptArguments(2, BACK, 'godwit main').join(' '),
    '-w -I FORWARD 3 -o gwan0 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment godwit main -j ACCEPT',
  )
})

test('B1: firewalld, as nft prints it: rejected behind its zones, answers accepted', () => {
  const rule = (chain: string, handle: number, ...expr: object[]) => ({
    rule: { family: 'inet', table: 'firewalld', chain, handle, expr },
  })
  const match = (left: object, right: unknown, op = '==') => ({ match: { op, left, right } })
  const state = { ct: { key: 'state' } }
  const objects = [
    { table: { family: 'inet', name: 'firewalld' } },
    {
      chain: {
        ...{ family: 'inet', table: 'firewalld', name: 'filter_FORWARD', type: 'filter' },
        ...{ hook: 'forward', prio: 10, policy: 'accept' },
      },
    },
    { chain: { family: 'inet', table: 'firewalld', name: 'filter_FORWARD_ZONES' } },
    { chain: { family: 'inet', table: 'firewalld', name: 'filter_FWD_public' } },
    rule('filter_FORWARD', 1, match(state, { set: ['established', 'related'] }), { accept: null }),
    rule('filter_FORWARD', 2, match({ ct: { key: 'status' } }, 'dnat', 'in'), { accept: null }),
    rule('filter_FORWARD', 3, match(state, 'invalid', 'in'), { drop: null }),
    rule('filter_FORWARD', 4, { jump: { target: 'filter_FORWARD_ZONES' } }),
    rule('filter_FORWARD', 5, { reject: { type: 'icmpx', expr: 'admin-prohibited' } }),
    rule('filter_FORWARD_ZONES', 6, { goto: { target: 'filter_FWD_public' } }),
    rule('filter_FWD_public', 7, { reject: { type: 'icmpx', expr: 'admin-prohibited' } }),
  ]
  const [name] = forwardChainsIn(objects)
  const chain = readNftChain(name!, objects)!
  const at = (accept: Accept) => droppedAt(chain, probeOf(accept, 6, 'eth0'))
  assert.deepEqual([OUT, BACK, DNAT].map(at), [3, undefined, undefined])
  assert.equal(
    acceptScript(chain, chain.rules[3]!.handle, OUT, 'godwit main'),
    'insert rule inet firewalld filter_FORWARD position 4 iifname "gwan0" counter accept comment "godwit main"\n',
  )
})
