package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// enforcer makes the NetworkPolicies of the cluster hold on its one node, by a table of nftables.
// The CNI plugin of the same name tells it a pod's address before the pod's first process runs,
// so that no packet leaves a pod before the policies that select it are in place.
type enforcer struct {
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	policies   networkinglisters.NetworkPolicyLister

	lock      sync.Mutex
	sandboxes map[string]sandbox // by the id that the container runtime gave
	applied   string
}

// sandbox is what the CNI plugin tells of a pod. A pod may get a second one before the first is gone.
type sandbox struct{ namespace, pod, address string }

// endpoint is a pod at one of its addresses.
type endpoint struct {
	*core.Pod
	address string
}

func newEnforcerCommand() *cobra.Command {
	var kubeconfig, socket string
	command := &cobra.Command{
		Use: "network-policies",
		RunE: func(command *cobra.Command, _ []string) error {
			return enforce(command.Context(), kubeconfig, socket)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&socket, "socket", "", "where to listen for the CNI plugin")
	return command
}

func enforce(ctx context.Context, kubeconfig, socket string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	e := &enforcer{
		pods:       factory.Core().V1().Pods().Lister(),
		namespaces: factory.Core().V1().Namespaces().Lister(),
		policies:   factory.Networking().V1().NetworkPolicies().Lister(),
		sandboxes:  map[string]sandbox{},
	}
	changed := make(chan struct{}, 1)
	notice := func() {
		select {
		case changed <- struct{}{}:
		default: // the change that is waiting covers this one
		}
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Pods().Informer(),
		factory.Core().V1().Namespaces().Informer(),
		factory.Networking().V1().NetworkPolicies().Informer(),
	} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { notice() },
			UpdateFunc: func(any, any) { notice() },
			DeleteFunc: func(any) { notice() },
		}); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { klog.Fatal(http.Serve(listener, e)) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if err := e.apply(); err != nil {
				klog.ErrorS(err, "The policies are not in place")
			}
		}
	}
}

// ServeHTTP answers the CNI plugin: PUT when a pod has got its address, DELETE when it has lost it.
func (e *enforcer) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	told := request.URL.Query()
	pod := sandbox{told.Get("namespace"), told.Get("pod"), told.Get("address")}
	e.lock.Lock()
	if request.Method == http.MethodPut {
		e.sandboxes[told.Get("sandbox")] = pod
	} else {
		delete(e.sandboxes, told.Get("sandbox"))
	}
	e.lock.Unlock()
	if request.Method == http.MethodPut && !e.knows(pod) {
		http.Error(answer, "the API server does not tell of this pod", http.StatusNotFound)
		return
	}
	if err := e.apply(); err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
	}
}

// knows waits for a pod of which the kubelet heard a moment before we do.
func (e *enforcer) knows(pod sandbox) bool {
	for range 100 {
		if _, err := e.pods.Pods(pod.namespace).Get(pod.pod); err == nil {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

func (e *enforcer) apply() error {
	e.lock.Lock()
	defer e.lock.Unlock()
	table, err := e.table()
	if err != nil || table == e.applied {
		return err
	}
	nft := exec.Command("nft", "-f", "-")
	// One transaction: at no time is there no table.
	nft.Stdin = strings.NewReader("table ip network-policies\ndelete table ip network-policies\n" + table)
	if output, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s\n%s", err, output, table)
	}
	e.applied = table
	return nil
}

// table writes all policies as nftables know them: for each pod that a policy selects, a chain with
// what it may send or receive, and a drop for all else.
func (e *enforcer) table() (string, error) {
	var chains bytes.Buffer
	jumps := map[networking.PolicyType][]string{}
	policies, err := e.policies.List(labels.Everything())
	if err != nil {
		return "", err
	}
	slices.SortFunc(policies, func(a, b *networking.NetworkPolicy) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	for _, pod := range e.endpoints(labels.Everything(), labels.Everything(), "") {
		for _, way := range []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress} {
			var rules []string
			isolated := false
			for _, policy := range policies {
				if policy.Namespace != pod.Namespace || !slices.Contains(policy.Spec.PolicyTypes, way) ||
					!selector(&policy.Spec.PodSelector).Matches(labels.Set(pod.Labels)) {
					continue
				}
				isolated = true
				if way == networking.PolicyTypeIngress {
					for _, rule := range policy.Spec.Ingress {
						rules = append(rules, e.allowed("saddr", policy.Namespace, rule.From, rule.Ports, pod.Pod)...)
					}
				} else {
					for _, rule := range policy.Spec.Egress {
						rules = append(rules, e.allowed("daddr", policy.Namespace, rule.To, rule.Ports, nil)...)
					}
				}
			}
			if !isolated {
				continue
			}
			chain := strings.ToLower(string(way)) + "-" + pod.address
			jumps[way] = append(jumps[way], fmt.Sprintf("%s : jump %s", pod.address, chain))
			fmt.Fprintf(&chains, "\tchain %s {\n", chain)
			for _, rule := range rules {
				fmt.Fprintf(&chains, "\t\t%s return\n", rule)
			}
			chains.WriteString("\t\tdrop\n\t}\n")
		}
	}
	verdict := func(match string, way networking.PolicyType) string {
		if len(jumps[way]) == 0 {
			return ""
		}
		return fmt.Sprintf("\t\tip %s vmap { %s }\n", match, strings.Join(jumps[way], ", "))
	}
	sent, received := verdict("saddr", networking.PolicyTypeEgress), verdict("daddr", networking.PolicyTypeIngress)
	const answers = "\t\tct state established,related accept\n"
	return "table ip network-policies {\n" + chains.String() +
		"\tchain forward {\n\t\ttype filter hook forward priority filter\n" + answers + sent + received + "\t}\n" +
		// What a pod sends to the node; what the node sends, probes above all, may always pass.
		"\tchain input {\n\t\ttype filter hook input priority filter\n" + answers + sent + "\t}\n}\n", nil
}

// allowed writes the matches of one rule: each of its peers with each of its ports. A named port is
// looked up in the pod that receives: the one given, else each peer.
func (e *enforcer) allowed(
	side, namespace string, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort, receiver *core.Pod,
) []string {
	var matches []string
	add := func(peer string, receiver *core.Pod) {
		if len(ports) == 0 {
			matches = append(matches, strings.TrimSpace(peer+" counter"))
		}
		for _, port := range ports {
			if match := portMatch(port, receiver); match != "" {
				matches = append(matches, strings.TrimSpace(peer+" "+match))
			}
		}
	}
	if len(peers) == 0 {
		add("", receiver)
	}
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			match := fmt.Sprintf("ip %s %s", side, block.CIDR)
			if len(block.Except) > 0 {
				match += fmt.Sprintf(" ip %s != { %s }", side, strings.Join(block.Except, ", "))
			}
			add(match, receiver)
			continue
		}
		within, inNamespaces := namespace, labels.Everything()
		if peer.NamespaceSelector != nil {
			within, inNamespaces = "", selector(peer.NamespaceSelector)
		}
		ofPods := labels.Everything()
		if peer.PodSelector != nil {
			ofPods = selector(peer.PodSelector)
		}
		for _, pod := range e.endpoints(inNamespaces, ofPods, within) {
			to := receiver
			if to == nil {
				to = pod.Pod
			}
			add(fmt.Sprintf("ip %s %s", side, pod.address), to)
		}
	}
	return matches
}

func portMatch(port networking.NetworkPolicyPort, receiver *core.Pod) string {
	protocol := core.ProtocolTCP
	if port.Protocol != nil {
		protocol = *port.Protocol
	}
	name := strings.ToLower(string(protocol))
	switch {
	case port.Port == nil:
		return "meta l4proto " + name
	case port.Port.Type == intstr.Int && port.EndPort != nil:
		return fmt.Sprintf("%s dport %d-%d", name, port.Port.IntVal, *port.EndPort)
	case port.Port.Type == intstr.Int:
		return fmt.Sprintf("%s dport %d", name, port.Port.IntVal)
	case receiver != nil:
		for _, container := range receiver.Spec.Containers {
			for _, declared := range container.Ports {
				if declared.Name == port.Port.StrVal && declared.Protocol == protocol {
					return fmt.Sprintf("%s dport %d", name, declared.ContainerPort)
				}
			}
		}
	}
	return ""
}

// endpoints lists pods by address: those of one namespace, or of the namespaces that a selector selects.
func (e *enforcer) endpoints(inNamespaces, ofPods labels.Selector, within string) []endpoint {
	var found []endpoint
	for _, sandbox := range e.sandboxes {
		pod, err := e.pods.Pods(sandbox.namespace).Get(sandbox.pod)
		if err != nil || !ofPods.Matches(labels.Set(pod.Labels)) || (within != "" && pod.Namespace != within) {
			continue
		}
		namespace, err := e.namespaces.Get(sandbox.namespace)
		if err == nil && inNamespaces.Matches(labels.Set(namespace.Labels)) {
			found = append(found, endpoint{pod, sandbox.address})
		}
	}
	slices.SortFunc(found, func(a, b endpoint) int { return strings.Compare(a.address, b.address) })
	return found
}

// selector is one that the API server has validated already.
func selector(of *meta.LabelSelector) labels.Selector {
	made, err := meta.LabelSelectorAsSelector(of)
	if err != nil {
		return labels.Nothing()
	}
	return made
}
