#!/usr/bin/env bash
# A Lessor agent in bash, curl and jq. It runs each session's `spec.command` as a process:
#   LESSOR_URL=http://127.0.0.1:8080 AGENT=sh-1 POOL=local ./agent.sh     (and LESSOR_TOKEN, if one is needed)
set -u; dir=${TMPDIR:-/tmp}/lessor-$AGENT; mkdir -p "$dir"; incarnation=; declare -A held=() reports=()
api() { # METHOD PATH [JSON]: prints the answer; what is not one has a .code, as problem documents have
  curl -sS -m 30 -X "$1" "$LESSOR_URL/v1/agents/$AGENT$2" ${LESSOR_TOKEN:+-H "Authorization: Bearer $LESSOR_TOKEN"} \
    -H 'Content-Type: application/json' ${3:+-d "$3"} || echo '{"code": "no_answer"}'; }
register() { # With nothing in `held`: what this name had is given out again, and found again by its pid.
  incarnation=$(api PUT "" "{\"pool\": \"$POOL\", \"capacity\": 10, \"instance\": {\"id\": \"$$-$RANDOM-$(date +%s)\"}}" | tee >(cat >&2) | jq '.incarnation // empty'); }
report() { # ID STATE [FIELDS]: goes out with the next claim, under the epoch and generation of the assignment
  reports[$1]=$(jq -c --arg state "$2" --argjson more "${3:-null}" '. + {state: $state} + $more' <<<"${held[$1]}"); }
alive() { kill -0 -- "-$(cat "$dir/$1.pid")"; } 2>/dev/null
start() { # The command, and then its exit code into a file, in an OS session that outlives this script
  env -u LESSOR_TOKEN setsid bash -c "$(jq -r '.session.spec.command | @sh' "$dir/$1.json"); echo \$? >'$dir/$1.exit'" &>"$dir/$1.log" &
  echo $! >"$dir/$1.pid"; }
stop() { kill -- "-$(cat "$dir/$1.pid")"; for _ in {1..50}; do alive "$1" || break; sleep 0.1; done; kill -KILL -- "-$(cat "$dir/$1.pid")"; rm "$dir/$1".*; } 2>/dev/null
trap 'api DELETE "?incarnation=$incarnation"; exit' INT TERM # Goodbye: others may adopt at once; processes run on.
until register; [ -n "$incarnation" ]; do sleep 2; done
while :; do
  for id in "${!held[@]}"; do code=$(cat "$dir/$id.exit" 2>/dev/null) || continue # What has ended by itself
    [ "$code" = 0 ] && report "$id" terminated || report "$id" failed "{\"failure\": {\"reason\": \"exited\", \"exit_code\": $code}}"; done
  [ ${#reports[@]} = 0 ] && wait=2 || wait=0 # The claim renews the lease, too. With reports, come back at once for their results.
  answer=$(api POST /claim "$(jq -cn "{incarnation: $incarnation, max_sessions: 10, wait_seconds: $wait, reports: [inputs]}" <<<"${reports[@]}")")
  case $(jq -r '.code // empty' <<<"$answer" || echo unreadable) in '') reports=() ;; agent_superseded) exit 1 ;;
    lease_expired | agent_not_registered) held=() reports=(); register; sleep 1; continue ;; *) echo "$answer" >&2; sleep 1; continue ;; esac
  while read -r id outcome state; do # Accepted, so act. Otherwise, or when it is over, forget it, and never kill it for that.
    case $outcome,$state in accepted,starting) alive "$id" || start "$id"; report "$id" running "{\"platform_resource_id\": \"$(cat "$dir/$id.pid")\"}" ;;
      accepted,terminating) stop "$id"; report "$id" terminated ;; accepted,running) ;; *) unset "held[$id]"; rm -f "$dir/$id.exit" ;; esac
  done < <(jq -r '.results[] | "\(.session_id) \(.outcome) \(.state)"' <<<"$answer")
  while read -r id; do unset "held[$id]"; done < <(jq -r '.lost[]' <<<"$answer")
  while read -r id action; do jq --arg id "$id" '.assignments[] | select(.session.id == $id)' <<<"$answer" >"$dir/$id.json"
    held[$id]=$(jq -c '{session_id: .session.id, lease_epoch, observed_generation: .generation}' "$dir/$id.json")
    case $action in start) report "$id" starting ;; terminate) report "$id" terminating ;; # Accept first; act on the result
      *) if alive "$id" || [ -e "$dir/$id.exit" ]; then report "$id" running; else report "$id" failed '{"failure": {"reason": "resource_gone"}}'; fi ;; esac
  done < <(jq -r '.assignments[] | "\(.session.id) \(.action)"' <<<"$answer")
done
